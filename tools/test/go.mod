module github.com/certpost/certpost/tools/test

go 1.26.0
