//go:build unix

package mailhost

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// fakeProc has processes with a name and four user ids.
func fakeProc(t *testing.T, processes map[int]string) string {
	t.Helper()
	dir := t.TempDir()
	for pid, text := range processes {
		name, uids, _ := strings.Cut(text, " ")
		if err := os.MkdirAll(filepath.Join(dir, strconv.Itoa(pid)), 0o755); err != nil {
			t.Fatal(err)
		}
		status := fmt.Sprintf("Name:\t%s\nUmask:\t0022\nUid:\t%s\nGid:\t0\t0\t0\t0\n", name, strings.ReplaceAll(uids, " ", "\t"))
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(pid), "status"), []byte(status), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A signal goes only to the daemon: its name and its user must be right, whatever the PID file
// says.
func TestDaemonIsFound(t *testing.T) {
	t.Parallel()
	const root, other, setuid = "0 0 0 0", "4711 4711 4711 4711", "4711 0 0 0"
	proc := fakeProc(t, map[int]string{10: "master " + root, 11: "master " + other, 12: "master " + setuid, 13: "cron " + root})
	file := filepath.Join(privateDir(t), "master.pid")
	m := Daemon{"master", file}
	for text, want := range map[string]string{
		"10": "", "        10\n": "",
		"11": "process 11 in " + file + " is not master", "12": "is not master", "13": "is not master", "14": "is not master",
		"": "has no number", "x": "has no number", "1": "has no number", "-10": "has no number",
	} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		pid, err := m.find(proc)
		if want == "" && (err != nil || pid != 10) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %d, %v, want %q", text, pid, err, want)
		}
	}
	if _, err := (Daemon{"master", file + "x"}).find(proc); err == nil || !strings.Contains(err.Error(), "does not exist: master does not run") {
		t.Errorf("without a PID file: %v", err)
	}
	if err := os.Chmod(filepath.Dir(file), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := m.find(proc); err == nil || !strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("a PID file that others can replace: %v", err)
	}

	// Where the PID file is for root only.
	if pid, err := m.search(proc); err != nil || pid != 10 {
		t.Errorf("searched: %d, %v", pid, err)
	}
	if _, err := m.search(fakeProc(t, map[int]string{10: "master " + root, 20: "master " + root})); err == nil || !strings.Contains(err.Error(), "2 processes master") {
		t.Errorf("two daemons: %v", err)
	}
	if _, err := m.search(fakeProc(t, map[int]string{12: "master " + setuid})); err == nil || !strings.Contains(err.Error(), "runs no process master") {
		t.Errorf("no daemon: %v", err)
	}
}
