package main

import (
	"slices"
	"testing"
)

func TestLibraries(t *testing.T) {
	got := libraries("exim4-base (>= 4.96), debconf (>= 0.5) | debconf-2.0, libc6 (>= 2.34), libcrypt1, libidn12 (>= 1.13)\n")
	if !slices.Equal(got, []string{"libc6", "libcrypt1", "libidn12"}) {
		t.Errorf("%q", got)
	}
}
