package main

import (
	"context"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// supervisor is systemd, if it has started this process as a service of Type=notify
// (sd_notify(3)). Its zero value is none: then nothing is said.
type supervisor struct {
	socket string
	// alive is how often systemd wants a sign of life: twice as often as WatchdogSec of the
	// unit (sd_watchdog_enabled(3)). 0 is never.
	alive time.Duration
}

// newSupervisor reads what systemd has put into the environment.
func newSupervisor(env []string) supervisor {
	value := func(name string) string {
		i := slices.IndexFunc(env, func(entry string) bool { return strings.HasPrefix(entry, name+"=") })
		if i < 0 {
			return ""
		}
		return env[i][len(name)+1:]
	}
	s := supervisor{socket: value("NOTIFY_SOCKET")}
	// A program that has inherited the variables of its parent's watchdog has none itself.
	if pid := value("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return s
	}
	if micros, err := strconv.ParseInt(value("WATCHDOG_USEC"), 10, 64); err == nil && micros > 0 && s.socket != "" {
		s.alive = time.Duration(micros) * time.Microsecond / 2
	}
	return s
}

// ready says that the start is complete, and what `systemctl status` shows.
func (s supervisor) ready(status string) {
	s.say("READY=1\nSTATUS=" + strings.ReplaceAll(status, "\n", " "))
}

// stopping says that the process ends what it has begun.
func (s supervisor) stopping() { s.say("STOPPING=1\nSTATUS=finishing what has begun") }

// signOfLife keeps the watchdog from killing this process.
func (s supervisor) signOfLife() {
	if s.alive > 0 {
		s.say("WATCHDOG=1")
	}
}

// watch gives signs of life until the context ends. Each follows a call of lives: one that does
// not return is a process that has to be started anew.
func (s supervisor) watch(ctx context.Context, lives func(context.Context)) {
	if s.alive == 0 {
		return
	}
	ticker := time.NewTicker(s.alive)
	defer ticker.Stop()
	for {
		lives(ctx)
		s.signOfLife()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// notifyPatience is how long a full socket is waited for: a systemd that does not read must not
// keep the program from its work, or from ending.
const notifyPatience = time.Second

// say writes to systemd's socket. An error has no remedy here, and its consequence, a start
// that systemd considers failed, is in systemd's log.
func (s supervisor) say(state string) {
	if s.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: s.socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer conn.Close()
	_ = conn.SetWriteDeadline(time.Now().Add(notifyPatience))
	_, _ = conn.Write([]byte(state))
}
