//go:build unix && !linux

package secrets

import "testing"

func dumpableIsOff(*testing.T) {}
