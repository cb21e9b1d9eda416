//go:build !unix

package secrets

func forbidCoreDumps() error { return nil }
