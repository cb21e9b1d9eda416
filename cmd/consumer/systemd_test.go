package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/certpost/certpost/internal/lab"
)

// A unit of Type=notify with WatchdogSec hears that the program is up, that it lives, and that it stops.
func TestRunTellsSystemd(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "certpost.yaml")
	lab.Write(t, config, []byte(anyPorts+"data_dir: "+dir+"/data\n"))
	socket := filepath.Join(dir, "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	if err := systemd.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	heard := func() string {
		text := make([]byte, 1000)
		n, err := systemd.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(text[:n])
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan int, 1)
	env := []string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=20000", "WATCHDOG_PID=" + strconv.Itoa(os.Getpid())}
	go func() { ended <- execute(ctx, []string{"run", "--config", config}, env, io.Discard, io.Discard) }()
	if said := heard(); !strings.HasPrefix(said, "READY=1\nSTATUS=pages on http://127.0.0.1:") {
		t.Errorf("first: %q", said)
	}
	for range 2 {
		if said := heard(); said != "WATCHDOG=1" {
			t.Errorf("then: %q", said)
		}
	}
	stop()
	said := heard()
	for said == "WATCHDOG=1" {
		said = heard()
	}
	if !strings.HasPrefix(said, "STOPPING=1\n") {
		t.Errorf("at the end: %q", said)
	}
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestSystemdThatDoesNotRead: a full socket does not keep the program.
//
// Fault: systemd does not read what services write to it. Result: it is waited for a second, and the program goes on and ends.
func TestSystemdThatDoesNotRead(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	filler, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	for err == nil {
		_ = filler.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, err = filler.Write([]byte("WATCHDOG=1"))
	}
	said := make(chan struct{})
	go func() {
		newSupervisor([]string{"NOTIFY_SOCKET=" + socket}).stopping()
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(30 * time.Second):
		t.Error("the program waits for systemd")
	}
}

// A process whose checks do not come to an end gives no sign of life.
func TestWatchdogWithoutLife(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "notify")
	systemd, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer systemd.Close()
	s := newSupervisor([]string{"NOTIFY_SOCKET=" + socket, "WATCHDOG_USEC=2"})
	checks, hangs := 0, make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go s.watch(ctx, func(ctx context.Context) {
		if checks++; checks == 3 {
			close(hangs)
			<-ctx.Done()
		}
	})
	<-hangs
	var signs int
	for ; ; signs++ {
		// The two are in the socket already, and no third will be.
		_ = systemd.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := systemd.Read(make([]byte, 100)); err != nil {
			break
		}
	}
	if signs != 2 {
		t.Errorf("%d signs of life, want 2", signs)
	}
}

func TestNewSupervisor(t *testing.T) {
	t.Parallel()
	mine := "WATCHDOG_PID=" + strconv.Itoa(os.Getpid())
	for env, want := range map[string]supervisor{
		"":                                       {},
		"NOTIFY_SOCKET=@abstract":                {socket: "@abstract"},
		"NOTIFY_SOCKET=/s WATCHDOG_USEC=3000000": {"/s", 1500 * time.Millisecond},
		"NOTIFY_SOCKET=/s WATCHDOG_USEC=3000000 " + mine:           {"/s", 1500 * time.Millisecond},
		"NOTIFY_SOCKET=/s WATCHDOG_USEC=3000000 WATCHDOG_PID=1":    {socket: "/s"}, // the parent's
		"NOTIFY_SOCKET=/s WATCHDOG_USEC=never":                     {socket: "/s"},
		"NOTIFY_SOCKET=/s WATCHDOG_USEC=-1":                        {socket: "/s"},
		"WATCHDOG_USEC=3000000 " + mine + " OTHER_NOTIFY_SOCKET=/": {},
	} {
		if got := newSupervisor(strings.Fields(env)); got != want {
			t.Errorf("%s: %+v, want %+v", env, got, want)
		}
	}
}

// The units call the program as it can be called.
func TestUnitsCallTheProgram(t *testing.T) {
	t.Parallel()
	units, err := filepath.Glob(root + "/deployments/systemd/*.service")
	if err != nil || len(units) < 2 {
		t.Fatalf("found %q, %v", units, err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		_, line, found := strings.Cut(string(text), "\nExecStart=certpost ")
		line, _, _ = strings.Cut(line, "\n")
		parser, err := newParser(newCLI(), kong.Vars{"version": ""})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parser.Parse(strings.Fields(line)); !found || err != nil {
			t.Errorf("%s: %s: %v", unit, line, err)
		}
	}
}
