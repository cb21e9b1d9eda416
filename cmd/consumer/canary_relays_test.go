package main

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
)

// echoingRelay repeats the password in its reply to AUTH, in the clear and in base64, as
// a few relays do.
func echoingRelay(t *testing.T) string {
	t.Helper()
	server := smtp.NewServer(smtp.BackendFunc(func(*smtp.Conn) (smtp.Session, error) { return echo{}, nil }))
	server.AllowInsecureAuth = true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	return l.Addr().String()
}

// hangingRelay puts AUTH off, and after hang does not answer it. The channel is closed when
// somebody waits for that answer.
func hangingRelay(t *testing.T) (address string, hang func(), asked <-chan struct{}) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var hangs atomic.Bool
	waiting := make(chan struct{})
	first := sync.OnceFunc(func() { close(waiting) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				_, _ = io.WriteString(c, "220 hangs\r\n")
				for lines := bufio.NewScanner(c); lines.Scan(); {
					switch verb, _, _ := strings.Cut(lines.Text(), " "); verb {
					case "EHLO":
						_, _ = io.WriteString(c, "250-hangs\r\n250 AUTH PLAIN\r\n")
					case "AUTH":
						if hangs.Load() {
							first()
						} else {
							_, _ = io.WriteString(c, "454 4.7.0 later\r\n")
						}
					default:
						_, _ = io.WriteString(c, "250 so be it\r\n")
					}
				}
			}()
		}
	}()
	return l.Addr().String(), func() { hangs.Store(true) }, waiting
}

type echo struct{ smtp.Session }

func (echo) Logout() error            { return nil }
func (echo) AuthMechanisms() []string { return []string{sasl.Plain} }

func (echo) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8},
			Message: fmt.Sprintf("wrong: %s %s %s", user, password, base64.StdEncoding.EncodeToString([]byte("\x00"+user+"\x00"+password)))}
	}), nil
}
