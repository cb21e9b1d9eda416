package lab

import (
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBrowserEnds checks that every process of a browser has ended with its test: each has
// the profile, or its directory, on its command line.
func TestBrowserEnds(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/cmdline"); err != nil {
		t.Skip("this system does not show command lines of processes in /proc")
	}
	var debugger, profile string
	var started []string
	t.Run("starts", func(t *testing.T) {
		address, err := url.Parse(Chromium(t))
		if err != nil {
			t.Fatal(err)
		}
		debugger = address.Host
		profile = profileOf(t, address.Port())
		started = browsers(t, profile)
	})
	if t.Failed() || debugger == "" {
		t.SkipNow()
	}
	if len(started) == 0 {
		t.Error("no process of a running browser was found: this test cannot find any")
	}
	if answers(debugger) == nil {
		t.Errorf("%s still answers", debugger)
	}
	err := poll(func() error {
		running := browsers(t, profile)
		for _, process := range started {
			for _, still := range running {
				if process == still {
					return errors.New(process + " still runs")
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// profileOf is the profile of the browser whose DevTools are at a port: others may
// run at the same time.
func profileOf(t *testing.T, port string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(os.TempDir(), "lab*", "profile", "DevToolsActivePort"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(text), port+"\n") {
			return filepath.Dir(file)
		}
	}
	t.Fatalf("none of the profiles %q has port %s", files, port)
	return ""
}

// browsers are the processes, by number and command line, that have a profile.
func browsers(t *testing.T, profile string) []string {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, file := range files {
		text, err := os.ReadFile(file) // empty if the process has ended meanwhile
		if err == nil && strings.Contains(string(text), profile) {
			found = append(found, file+": "+strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}
