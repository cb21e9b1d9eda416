package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// fuzz runs each fuzz test of the main module for the given time. The go command
// fuzzes only one test at a time, which must be named.
func (s *session) fuzz(ctx context.Context, each time.Duration) error {
	list := s.command(ctx, "go", "test", "-list", "^Fuzz", "./...")
	list.Stdout = nil
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go test -list: %w", err)
	}
	var failures []error
	for _, f := range fuzzTests(string(out)) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		fmt.Printf("    %s in %s for %s\n", f.test, f.pkg, each)
		err := s.command(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+f.test+"$", "-fuzztime", each.String(), f.pkg).Run()
		if err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", f.test, err))
		}
	}
	return errors.Join(failures...)
}

type fuzzTest struct{ test, pkg string }

// fuzzTests parses the output of `go test -list`: for each package the names of its
// tests, one per line, then "ok", the package and the duration.
func fuzzTests(listing string) []fuzzTest {
	var found []fuzzTest
	var names []string
	for line := range strings.Lines(listing) {
		fields := strings.Fields(line)
		switch {
		case len(fields) == 1 && strings.HasPrefix(fields[0], "Fuzz"):
			names = append(names, fields[0])
		case len(fields) >= 2 && fields[0] == "ok":
			for _, name := range names {
				found = append(found, fuzzTest{name, fields[1]})
			}
			names = nil
		}
	}
	return found
}
