//go:build unix

package lab

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// TestKilledTestLeavesNoServer kills a test's process, whose cleanups then do not run, and
// waits for the end of the server that it had started and of that server's child. All of
// them hold a pipe open, which ends with the last of them.
func TestKilledTestLeavesNoServer(t *testing.T) {
	t.Parallel()
	const role = "LAB_TEST_STARTS_A_SERVER"
	if os.Getenv(role) != "" {
		const inherited = 3
		syscall.CloseOnExec(inherited) // otherwise the guard would hold it open too
		pipe := os.NewFile(inherited, "pipe")
		server := exec.Command("sh", "-c", "sleep 600 & sleep 600")
		server.ExtraFiles = []*os.File{pipe}
		p := startProcess(t, "sh", filepath.Join(t.TempDir(), "log"), server)
		io.WriteString(pipe, "started\n")
		<-p.ended
		t.Fatal("the server has ended before the test was killed")
	}
	held, holder, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	held.SetReadDeadline(time.Now().Add(patience))
	test := exec.Command(os.Args[0], "-test.run=^TestKilledTestLeavesNoServer$")
	test.Env = append(os.Environ(), role+"=yes", "TMPDIR="+t.TempDir()) // its cleanups do not run, so it does not remove its files
	test.ExtraFiles = []*os.File{holder}
	err = test.Start()
	holder.Close()
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(held).ReadString('\n')
	test.Process.Kill()
	test.Wait()
	if err != nil {
		t.Fatalf("the server did not start: %q, %v", line, err)
	}
	if _, err := io.ReadAll(held); err != nil {
		t.Errorf("the server has not ended with the test: %v", err)
	}
}
