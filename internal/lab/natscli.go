package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// NATSEnv is an environment in which the `nats` command, also in a shell pipeline, talks
// to the server at url and reads none of the user's settings. Credentials are further
// variables of the NATS CLI, such as "NATS_CREDS=file" or "NATS_USER=name",
// "NATS_PASSWORD=word". The test is skipped, or fails with CI=true, if the NATS CLI is not
// built.
func NATSEnv(t testing.TB, url string, credentials ...string) []string {
	t.Helper()
	nats := Need(t, "nats")
	home := t.TempDir()
	env := []string{
		"PATH=" + filepath.Dir(nats) + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_DATA_HOME=" + home,
		"NATS_URL=" + url, "NO_COLOR=1",
	}
	return append(env, credentials...)
}

// NATSCLI returns a function that runs the NATS CLI without a terminal and with empty
// standard input, and returns its output. The test fails if the command does.
func NATSCLI(t testing.TB, url string, credentials ...string) func(args ...string) string {
	t.Helper()
	nats, env := Need(t, "nats"), NATSEnv(t, url, credentials...)
	return func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), nats, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("nats %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}
