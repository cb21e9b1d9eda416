package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// patience is how long a server may take to start, to stop, or to do what a test waits
// for. It is long for machines that compile at the same time.
const patience = 60 * time.Second

// process is a server that a test has started. Its output goes to a file; if the test
// fails, the end of the file is part of the test's log.
type process struct {
	name  string
	log   string
	cmd   *exec.Cmd
	ended chan struct{} // closed when the server has ended
}

// startProcess starts a server, and stops it when the test ends. The server runs in its own
// process group, which ends with it, and it ends with the test's process even if that is
// killed.
func startProcess(t testing.TB, name, log string, cmd *exec.Cmd) *process {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, ended: make(chan struct{})}
	go func() {
		cmd.Wait()
		close(p.ended)
	}()
	dismissGuard, err := guard(cmd.Process.Pid)
	t.Cleanup(func() {
		p.stop(t)
		if err == nil {
			dismissGuard()
		}
	})
	if err != nil {
		t.Fatalf("starting %s: %v", name, err)
	}
	return p
}

// stop ends the server and every process it has started. A second call does nothing.
func (p *process) stop(t testing.TB) {
	t.Helper()
	select {
	case <-p.ended:
		killGroup(p.cmd.Process.Pid)
		return
	default:
	}
	terminate(p.cmd.Process)
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Errorf("%s did not end within %s and was killed", p.name, patience)
	}
	killGroup(p.cmd.Process.Pid)
	<-p.ended
}

// await polls until ready returns nil. It fails the test if the server ends before that, or
// if it takes longer than patience.
func (p *process) await(t testing.TB, what string, ready func() error) {
	t.Helper()
	err := poll(func() error {
		select {
		case <-p.ended:
			return stopPolling{fmt.Errorf("the server has ended: %v", p.cmd.ProcessState)}
		default:
			return ready()
		}
	})
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", p.name, what, err, tail(p.log))
	}
}

// stopPolling wraps an error that waiting cannot resolve.
type stopPolling struct{ error }

// poll calls done until it returns nil; after patience it returns the last error.
func poll(done func() error) error {
	deadline := time.Now().Add(patience)
	for {
		err := done()
		if err == nil || errors.As(err, new(stopPolling)) || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// answers returns nil if a server accepts connections at an address.
func answers(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return err
	}
	return conn.Close()
}

// logOnFailure adds the end of a server's log to the log of a failed test.
func logOnFailure(t testing.TB, path string) {
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s:\n%s", path, tail(path))
		}
	})
}

// tail returns the last few KiB of a file.
func tail(path string) string {
	const most = 8 << 10
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-most):])
}

// freePort picks a free TCP port on loopback. It stays below the ports that the kernel
// assigns to outgoing connections and to listeners on port 0, so that these do not take it
// before the server does.
func freePort(t testing.TB) int {
	t.Helper()
	for range 1000 {
		port := 10000 + rand.IntN(20000)
		l, err := net.Listen("tcp", loopback(port))
		if err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no free TCP port was found on 127.0.0.1")
	return 0
}

// FreeAddress is a free host:port on loopback, for servers whose address must be known
// before they start.
func FreeAddress(t testing.TB) string {
	t.Helper()
	return loopback(freePort(t))
}

func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

// serverDir makes a directory that servers which switch from root to another user can
// reach, with a path short enough for the Unix sockets in it (108 bytes on Linux).
// t.TempDir has neither property: its parent is accessible only to the user, and its path
// contains the test's name.
func serverDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "lab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing a server's directory: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ServerDir is such a directory for other tests.
func ServerDir(t testing.TB) string {
	t.Helper()
	return serverDir(t)
}

func mkdir(t testing.TB, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func writeFile(t testing.TB, path, text string, mode os.FileMode) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return path
}
