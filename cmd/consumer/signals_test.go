package main

import (
	"errors"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endedAmidAMail starts a program and sends it SIGTERM while its relay has the mail of the
// event "first"; /readyz reports the shutdown. begun gets the mails that the relay
// receives from then on. The relay replies to none until goOn is closed.
func endedAmidAMail(t *testing.T) (p *program, begun <-chan string, goOn chan<- struct{}) {
	t.Helper()
	mails, answering := make(chan string, 10), make(chan struct{})
	relay := slowRelay(t, func(mail string) string {
		mails <- mail
		<-answering
		return "250 2.0.0 OK: queued as SLOW1"
	})
	p = newProgram(t, anyPorts+"targets:\n"+smtpTarget("slow", relay))
	p.start()
	p.ready()
	p.publish("first", "slow")
	<-mails
	p.terminate()
	p.until("shutting down", func() bool {
		status, body := p.readyz()
		return status == http.StatusServiceUnavailable && body == "not ready: nats: shutting down\n"
	})
	return p, mails, answering
}

// SIGTERM during a mail: that mail is finished, no other is begun, and events published
// meanwhile are delivered after the next start.
//
// Fault: SIGTERM with a mail in DATA. Result: not ready at once; nothing new is fetched;
// that mail is finished; the rest waits for the next start.
func TestRunDrainsAtSIGTERM(t *testing.T) {
	t.Parallel()
	p, begun, goOn := endedAmidAMail(t)
	p.publish("second", "slow") // its NATS is up until the end
	select {
	case <-begun:
		t.Error("a mail was begun after SIGTERM")
	default:
	}
	close(goOn)
	p.ended()
	p.accountsFor(2, tally{accepted: 1, pending: 1})

	p.start()
	if mail := <-begun; !strings.Contains(mail, "X-Certpost-Event-Id: second\r\n") || strings.Contains(mail, "X-Certpost-Possible-Duplicate") {
		t.Errorf("after the restart another mail than the second arrives: %s", mail)
	}
	p.accountsFor(2, tally{accepted: 2})
	if len(begun) != 0 {
		t.Error("one mail too many")
	}
	p.terminate()
	p.ended()
	if _, err := net.DialTimeout("tcp", strings.TrimPrefix(p.nats, "nats://"), time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("its NATS still answers: %v", err)
	}
}

// A second signal does not wait for the mail in progress; its outcome is then unknown.
//
// Fault: a second SIGTERM or Ctrl-C. Result: ends at once, as after kill -9; nothing is
// lost, the outcome of the mail under way is unknown.
func TestSecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	p, begun, goOn := endedAmidAMail(t)
	process := p.cmd.Process
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	p.until("the end", func() bool {
		select {
		case err := <-ended:
			if err == nil || !strings.Contains(err.Error(), "terminated") {
				t.Errorf("it ended with %v, and not by the signal", err)
			}
			return true
		default:
			_ = process.Signal(syscall.SIGTERM) // it may have ended
			return false
		}
	})
	close(goOn)
	p.start()
	if mail := <-begun; !strings.Contains(mail, "X-Certpost-Possible-Duplicate: yes\r\n") {
		t.Errorf("the mail whose outcome was unknown came again as %s", mail)
	}
	p.accountsFor(1, tally{accepted: 1})
	p.terminate()
	p.ended()
}
