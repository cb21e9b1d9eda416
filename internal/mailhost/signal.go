package mailhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/certpost/certpost/internal/legible"
)

// Daemon is a program that reads its files again at SIGHUP. A process that is not root needs only
// the capability CAP_KILL for that, where postfix reload and doveadm reload need root.
type Daemon struct {
	Name    string // of its process, as in /proc/PID/status
	PIDFile string // absolute
}

// The daemons that are known.
func postfixMaster() Daemon { return Daemon{"master", "/var/spool/postfix/pid/master.pid"} }
func dovecotMaster() Daemon { return Daemon{"dovecot", "/run/dovecot/master.pid"} }

// IsZero reports whether there is no daemon to signal.
func (m Daemon) IsZero() bool { return m == Daemon{} }

// procfs is where the kernel describes processes.
const procfs = "/proc"

// reload sends SIGHUP.
func (m Daemon) reload(proc string) error {
	pid, err := m.find(proc)
	if err != nil {
		return err
	}
	err = hangUp(pid)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("process %d (%s) could not be signalled: Certpost needs the capability CAP_KILL (with systemd AmbientCapabilities=CAP_KILL), or to run as root", pid, m.Name)
	case err != nil:
		return fmt.Errorf("process %d (%s) could not be signalled: %w", pid, m.Name, err)
	}
	return nil
}

// find returns the process of the daemon. Its PID file may be for root only, as Dovecot's is; then
// it is the only process of its name that root runs.
func (m Daemon) find(proc string) (int, error) {
	path, err := resolve(m.PIDFile)
	if err == nil {
		var text []byte
		if text, err = readFile(path); err == nil {
			return m.named(proc, string(text))
		}
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return m.search(proc)
	case errors.Is(err, fs.ErrNotExist):
		return 0, fmt.Errorf("%s does not exist: %s does not run, or pid_file is another", m.PIDFile, m.Name)
	}
	if f, ok := errors.AsType[*Failure](err); ok {
		return 0, errors.New(f.Reason)
	}
	return 0, err
}

// named checks the process that a PID file names: what is written there may be the number of
// another process by now.
func (m Daemon) named(proc, text string) (int, error) {
	text = strings.TrimSpace(text)
	pid, err := strconv.Atoi(text)
	if err != nil || pid <= 1 {
		return 0, fmt.Errorf("%s has no number of a process, but %q", m.PIDFile, legible.Clean(text, 40))
	}
	if !m.is(proc, pid) {
		return 0, fmt.Errorf("process %d in %s is not %s, run by root or by the user of Certpost: it does not run, or pid_file is another", pid, m.PIDFile, m.Name)
	}
	return pid, nil
}

// search looks for the daemon among all processes.
func (m Daemon) search(proc string) (int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return 0, err
	}
	var found []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && m.is(proc, pid) {
			found = append(found, pid)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return 0, fmt.Errorf("%s cannot be read, and root runs no process %s that can be seen here", m.PIDFile, m.Name)
	}
	return 0, fmt.Errorf("%s cannot be read, and root runs %d processes %s: give a pid_file that Certpost may read", m.PIDFile, len(found), m.Name)
}

// is reports whether a process has the daemon's name, and is run by root or this process's user
// with all of its user ids: a program that root only owns, and that another user runs with root's
// rights (setuid), is none.
func (m Daemon) is(proc string, pid int) bool {
	text, err := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "status"))
	if err != nil {
		return false
	}
	name, owned := false, false
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value) == m.Name
		case "Uid": // real, effective, saved, file system
			ids := strings.Fields(value)
			owned = len(ids) == 4 && !slices.ContainsFunc(ids, func(id string) bool {
				uid, err := strconv.Atoi(id)
				return err != nil || !trusted(uid)
			})
		}
	}
	return name && owned
}
