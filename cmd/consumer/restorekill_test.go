package main

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/certpost/certpost/internal/broker"
	"github.com/certpost/certpost/internal/lab"
)

// fullPipe is a pipe that takes nothing more: who writes to it waits.
func fullPipe(t *testing.T) (read, write *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd := int(write.Fd())
	if err := syscall.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := syscall.Write(fd, make([]byte, 512)); errors.Is(err, syscall.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	return read, write
}

// TestRestoreIsKilled: a restore that was killed in the middle is no store. The process is killed when
// it wants to say that the first stream is there.
//
// Fault: a restore is killed half-way, in the embedded NATS or in another one. Result: run refuses what is there, says what to do, and delivers nothing.
func TestRestoreIsKilled(t *testing.T) {
	t.Parallel()
	program := lab.Build(t)
	o := newFixture(t, "")
	o.publish("one", "ops")
	o.settled()
	dir := o.path("backup")
	o.certpost("backup", dir).done(t)
	sent := len(o.relay.Mails())

	address := lab.FreeAddress(t)
	lab.NATS(t, address, "")
	conn, err := nats.Connect("nats://" + address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	embedded, elsewhere := o.another(), o.another()
	elsewhere.write("empty.yaml", "data_dir: "+elsewhere.path("data")+"\nnats: {url: \"nats://"+address+"\"}\n")
	for _, c := range []struct {
		n    *fixture
		half func() bool // the first stream is there
		want string
	}{
		{embedded, func() bool {
			found, _ := filepath.Glob(embedded.path("data/nats/jetstream/*/streams/CERTPOST_*"))
			return len(found) > 0
		}, "empty the directory, then run certpost restore again"},
		{elsewhere, func() bool {
			names := js.StreamNames(t.Context())
			found := 0
			for range names.Name() {
				found++
			}
			return found > 0
		}, "delete the streams of certpost"},
	} {
		read, write := fullPipe(t)
		cmd := exec.Command(program, "-c", c.n.config, "restore", dir)
		cmd.Stdout = write
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		c.n.until("the first stream", c.half)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		write.Close()
		if text, err := io.ReadAll(read); err != nil || strings.Contains(string(text), "restored as of") {
			t.Fatalf("the restore has ended: %v", err)
		}
		read.Close()
		c.n.write("run.yaml", strings.ReplaceAll(c.n.yaml(), "127.0.0.1:0", lab.FreeAddress(t))+"http: {listen: \"127.0.0.1:0\"}\ntargets:\n"+c.n.target("ops", "to: [ops@demo.example]"))
		s := ran(t, c.n.dir, nil, "timeout", "-s", "KILL", "20", program, "-c", c.n.path("run.yaml"), "run")
		if s.code != exitFailed || !strings.Contains(s.stderr, broker.ErrUnfinishedRestore.Error()) || !strings.Contains(s.stderr, c.want) {
			t.Errorf("run: %+v", s)
		}
	}
	if s := embedded.certpost("restore", dir); s.code != exitUsage || !strings.Contains(s.stderr, "restore into an empty data_dir") {
		t.Errorf("restore again: %+v", s)
	}
	if err := os.RemoveAll(embedded.path("data")); err != nil {
		t.Fatal(err)
	}
	embedded.certpost("restore", dir).done(t)
	if _, err := os.Stat(embedded.path("data/restore.unfinished")); err == nil {
		t.Error("the mark is there after a restore that has ended")
	}
	if n := len(o.relay.Mails()); n != sent {
		t.Errorf("%d mails, want %d", n, sent)
	}
}

// yaml is the text of the configuration.
func (o *fixture) yaml() string {
	o.t.Helper()
	text, err := os.ReadFile(o.config)
	if err != nil {
		o.t.Fatal(err)
	}
	return string(text)
}
