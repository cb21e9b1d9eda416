package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/access"
	"github.com/certpost/certpost/internal/dashboard"
	"github.com/certpost/certpost/internal/lab"
)

// These tests attack the dashboard's server below the level of requests, with bytes and
// frames that no browser sends. Attacks by well-formed requests are tested in
// internal/access and internal/dashboard; docs/security.md lists both.

// fortress is the dashboard's real server, with TLS and sign-in.
type fortress struct {
	t       *testing.T
	server  *httpServer
	address string
	trust   *tls.Config
}

// newFortress serves a handler, or the sign-in pages of a dashboard if it is nil.
func newFortress(t *testing.T, handler http.Handler) *fortress {
	t.Helper()
	dir := t.TempDir()
	ca := lab.NewCA(t, dir)
	certFile, keyFile := ca.Issue(t, "localhost", "127.0.0.1")
	cfg := &HTTPConfig{Listen: "127.0.0.1:0", URL: "https://certpost.example.com", TLS: ServerTLSConfig{CertFile: certFile, KeyFile: keyFile}}
	cfg.SignIn.Users = []UserConfig{{Name: "ada", PasswordHash: hashFor(t, "canary-password"), Role: "admin"}}
	look := dashboard.NewLook("test", zerolog.Nop())
	guard, server, err := openHTTP(t.Context(), cfg, nil, look.Access(), nil, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	server.people = nil // the configuration is in no file
	guard.HandleProbe("GET /livez", access.Anyone, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "alive\n") }))
	server.server.Handler = dashboard.New(nil, guard, dashboard.Options{Look: look, Log: zerolog.Nop()})
	if handler != nil {
		server.server.Handler = handler
	}
	return &fortress{t, server, server.listener.Addr().String(), &tls.Config{RootCAs: ca.Pool, ServerName: "localhost"}}
}

// opens starts to serve.
func (f *fortress) opens() *fortress {
	served := make(chan error, 1)
	go func() { served <- f.server.serve(f.t.Context()) }() // the context ends before the cleanup
	f.t.Cleanup(func() {
		f.server.close()
		<-served
	})
	return f
}

// hurried divides some of the server's timeouts, so that a test need not wait for them. One
// that is not set stays so, and the test waits in vain.
func (f *fortress) hurried(limits func(s *http.Server) []*time.Duration) *fortress {
	for _, limit := range limits(f.server.server) {
		*limit /= 50
	}
	return f
}

func reading(s *http.Server) []*time.Duration {
	return []*time.Duration{&s.ReadHeaderTimeout, &s.ReadTimeout, &s.IdleTimeout}
}

func writing(s *http.Server) []*time.Duration {
	return []*time.Duration{&s.WriteTimeout, &s.HTTP2.SendPingTimeout, &s.HTTP2.WriteByteTimeout}
}

// dial connects with HTTP/1.1 or h2.
func (f *fortress) dial(protocol string) *tls.Conn {
	f.t.Helper()
	trust := f.trust.Clone()
	trust.NextProtos = []string{protocol}
	var c *tls.Conn
	await(f.t, "a connection", func() (ok bool) { // a hurried server may have no patience for the first
		var err error
		c, err = tls.Dial("tcp", f.address, trust)
		return err == nil
	})
	f.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	return c
}

// answers sends bytes, and returns all responses until the server closes the connection.
func (f *fortress) answers(sent string) (all []*http.Response, text string) {
	f.t.Helper()
	c := f.dial("http/1.1")
	go func() { _, _ = io.WriteString(c, sent) }() // the server may close before all is sent
	var got bytes.Buffer
	r := bufio.NewReader(io.TeeReader(c, &got))
	for {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return all, got.String()
		}
		_, _ = io.Copy(io.Discard, resp.Body) // its end may be the connection's
		resp.Body.Close()
		all = append(all, resp)
	}
}

// Each ambiguous or malformed message is refused, or read in the one way of RFC 9112; what
// one of them hides in its body is never answered as a request. Every answer of a handler has
// the security headers.
//
// Fault: smuggled requests. Result: refused.
func TestSmuggledRequests(t *testing.T) {
	t.Parallel()
	f := newFortress(t, nil).opens()
	const hidden = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
	post := func(headers, body string) string {
		return "POST /sign-in HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Type: application/x-www-form-urlencoded\r\n" + headers + "\r\n" + body
	}
	get := func(line, headers string) string {
		return line + "\r\n" + headers + "Connection: close\r\n\r\n"
	}
	const host = "Host: localhost\r\n"
	for name, test := range map[string]struct {
		sent string
		want int // of the first answer, the only one
	}{
		"two lengths":                          {post("Content-Length: 5\r\nContent-Length: 90\r\n", "x=123"+hidden), 400},
		"two lengths in one":                   {post("Content-Length: 5, 90\r\n", "x=123"+hidden), 400},
		"a signed length":                      {post("Content-Length: +5\r\n", "x=123"+hidden), 400},
		"a negative length":                    {post("Content-Length: -5\r\n", hidden), 400},
		"a length with a blank before":         {post("Content-Length : 5\r\n", "x=123"+hidden), 400},
		"a length in hexadecimal":              {post("Content-Length: 0x5\r\n", "x=123"+hidden), 400},
		"two encodings":                        {post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"+hidden), 501},
		"an unknown encoding":                  {post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"+hidden), 501},
		"a list of encodings":                  {post("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"+hidden), 501},
		"an encoding with a tab":               {post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"+hidden), 400},
		"an encoding of HTTP/1.0":              {strings.Replace(post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"+hidden), "HTTP/1.1", "HTTP/1.0", 1), 403},
		"length and encoding":                  {post("Content-Length: 300\r\nTransfer-Encoding: chunked\r\n", "5\r\nx=123\r\n0\r\n\r\n"+hidden), 403},
		"a chunk with a wrong length":          {post("Transfer-Encoding: chunked\r\n", "2\r\nx=123\r\n0\r\n\r\n"+hidden), 400},
		"a chunk of negative length":           {post("Transfer-Encoding: chunked\r\n", "-1\r\nx\r\n0\r\n\r\n"+hidden), 400},
		"a chunk length of 17 digits":          {post("Transfer-Encoding: chunked\r\n", "00000000000000005\r\nx=123\r\n0\r\n\r\n"+hidden), 400},
		"a long extension of a chunk":          {post("Transfer-Encoding: chunked\r\n", "5;"+strings.Repeat("x", 8<<10)+"\r\nx=123\r\n0\r\n\r\n"+hidden), 400},
		"no host":                              {get("GET /livez HTTP/1.1", ""), 400},
		"two hosts":                            {get("GET /livez HTTP/1.1", host+"Host: evil.example\r\n"), 400},
		"a host with a control character":      {get("GET /livez HTTP/1.1", "Host: localhost\x00\r\n"), 400},
		"another host in the address":          {get("GET http://evil.example/sign-in HTTP/1.1", host), 421},
		"our host in the address":              {get("GET http://localhost/sign-in HTTP/1.1", "Host: evil.example\r\n"), 200}, // RFC 9112, section 3.2.2: the address counts
		"a header name with a blank":           {get("GET /livez HTTP/1.1", host+"X Y: z\r\n"), 400},
		"a header without a name":              {get("GET /livez HTTP/1.1", host+": z\r\n"), 400},
		"a header with NUL":                    {get("GET /livez HTTP/1.1", host+"X: a\x00b\r\n"), 400},
		"a header with a bare CR":              {get("GET /livez HTTP/1.1", host+"X: a\rY: b\r\n"), 400},
		"an address with a blank":              {get("GET /livez x HTTP/1.1", host), 400},
		"an address with NUL":                  {get("GET /livez\x00 HTTP/1.1", host), 400},
		"an escape that is none":               {get("GET /%zz HTTP/1.1", host), 400},
		"headers of 100 kB":                    {get("GET /livez HTTP/1.1", host+"X: "+strings.Repeat("x", 100<<10)+"\r\n"), 431},
		"10,000 headers":                       {get("GET /livez HTTP/1.1", host+strings.Repeat("X: y\r\n", 10_000)+strings.Repeat("Long: "+strings.Repeat("z", 100)+"\r\n", 500)), 431},
		"an unknown version":                   {get("GET /livez HTTP/3.7", host), 505},
		"no version":                           {"GET /livez\r\n\r\n", 400},
		"a method with a slash":                {get("G/T /livez HTTP/1.1", host), 400},
		"an upgrade to a web socket":           {get("GET /sign-in HTTP/1.1", host+"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\n"), 200},
		"an upgrade to h2c":                    {get("GET /sign-in HTTP/1.1", host+"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"), 200},
		"an expectation other than to go on":   {get("GET /sign-in HTTP/1.1", host+"Expect: everything\r\n"), 417},
		"a form of 300 kB":                     {post(fmt.Sprintf("Content-Length: %d\r\n", 300<<10), strings.Repeat("x", 300<<10)+hidden), 413},
		"a form of 300 kB in chunks":           {post("Transfer-Encoding: chunked\r\n", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 300<<10, strings.Repeat("x", 300<<10))+hidden), 413},
		"a form that says it has an exabyte":   {post("Content-Length: 1000000000000000000\r\nExpect: 100-continue\r\n", ""), 413},
		"an exabyte for another address":       {strings.Replace(post("Content-Length: 1000000000000000000\r\n", ""), "/sign-in", "/nowhere", 1), 404},
		"an exabyte for a page":                {strings.Replace(post("Content-Length: 1000000000000000000\r\n", ""), "/sign-in", "/livez", 1), 405},
		"an exabyte for another host":          {strings.Replace(post("Content-Length: 1000000000000000000\r\n", ""), "localhost", "evil.example", 1), 421},
		"an exabyte of another site":           {strings.Replace(post("Content-Length: 1000000000000000000\r\n", ""), "same-origin", "cross-site", 1), 403},
		"the options of the server":            {get("OPTIONS * HTTP/1.1", host), 404},
		"the options of another host":          {get("OPTIONS * HTTP/1.1", "Host: evil.example\r\n"), 421},
		"a form after a length that overflows": {post("Content-Length: 99999999999999999999999\r\n", hidden), 400},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			all, text := f.answers(test.sent)
			var statuses []int
			for _, resp := range all {
				statuses = append(statuses, resp.StatusCode)
			}
			if len(all) != 1 || all[0].StatusCode != test.want {
				t.Fatalf("statuses %v, want only %d: %.300s", statuses, test.want, text)
			}
			if strings.Contains(text, "alive") {
				t.Errorf("the request in the body was answered: %.300s", text)
			}
			// The server itself answers what it cannot read as a request, with a line of text.
			own := !strings.HasPrefix(all[0].Header.Get("Content-Type"), "text/html")
			if !own {
				for _, header := range []string{"Content-Security-Policy", "X-Content-Type-Options", "X-Frame-Options", "Referrer-Policy", "Strict-Transport-Security", "Cache-Control"} {
					if all[0].Header.Get(header) == "" {
						t.Errorf("no %s", header)
					}
				}
			} else if test.want == 200 || len(all[0].Header) > 3 {
				t.Errorf("%d: %v", test.want, all[0].Header)
			}
		})
	}
}

// TLS 1.0 and 1.1 are refused; 1.2 and 1.3 are not.
func TestOldTLS(t *testing.T) {
	t.Parallel()
	f := newFortress(t, nil).opens()
	for version, want := range map[uint16]bool{tls.VersionTLS10: false, tls.VersionTLS11: false, tls.VersionTLS12: true, tls.VersionTLS13: true} {
		trust := f.trust.Clone()
		trust.MinVersion, trust.MaxVersion = version, version
		c, err := tls.Dial("tcp", f.address, trust)
		if (err == nil) != want {
			t.Errorf("%s: %v", tls.VersionName(version), err)
		}
		if err == nil {
			c.Close()
		}
	}
}

// A client that sends nothing, or sends or reads too slowly, loses its connection, whatever
// it is in the middle of.
//
// Fault: slow clients. Result: connections end.
func TestSlowClients(t *testing.T) {
	t.Parallel()
	endless := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		for part := bytes.Repeat([]byte("x"), 1<<20); ; {
			if _, err := w.Write(part); err != nil {
				return
			}
		}
	})
	f := newFortress(t, endless).hurried(reading).opens()
	request := func(c net.Conn, text string) {
		_, _ = io.WriteString(c, text) // fails if the connection has ended already
	}
	for name, slow := range map[string]func() net.Conn{
		"before the handshake": func() net.Conn {
			c, err := net.Dial("tcp", f.address)
			if err != nil {
				t.Fatal(err)
			}
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			return c
		},
		"after the handshake": func() net.Conn { return f.dial("http/1.1") },
		"in the headers": func() net.Conn {
			c := f.dial("http/1.1")
			request(c, "POST / HTTP/1.1\r\nHost: localhost\r\nX: ")
			return c
		},
		"in the body": func() net.Conn {
			c := f.dial("http/1.1")
			request(c, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nx")
			return c
		},
		"in a chunk": func() net.Conn {
			c := f.dial("http/1.1")
			request(c, "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nx")
			return c
		},
		"with HTTP/2, without a request": func() net.Conn {
			c := f.dial("h2")
			newFlood(t, c)
			return c
		},
		"with HTTP/2, in the headers": func() net.Conn {
			c := f.dial("h2")
			flood := newFlood(t, c)
			flood.begin(1, false, false)
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := slow()
			defer c.Close()
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection is still open after a minute")
			}
		})
	}
}

// A client that reads nothing holds no handler: with HTTP/1.1, with a stream of HTTP/2 that it
// gives no room for, and with a connection of HTTP/2 that it leaves full.
//
// Fault: slow clients. Result: connections end.
func TestClientsThatReadNothing(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(f *fortress){
		"HTTP/1.1": func(f *fortress) {
			_, _ = io.WriteString(f.dial("http/1.1"), "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		},
		"no room in the stream": func(f *fortress) {
			flood := newFlood(t, f.dial("h2"))
			flood.begin(1, true, true)
			go flood.read()
		},
		"a full connection": func(f *fortress) {
			flood := newFlood(t, f.dial("h2"))
			_ = flood.WriteWindowUpdate(0, 1<<30)
			for id := uint32(1); id < 41; id += 2 {
				flood.begin(id, true, true)
				_ = flood.WriteWindowUpdate(id, 1<<30)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var began, ended atomic.Int64
			f := newFortress(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				began.Add(1)
				defer ended.Add(1)
				for part := bytes.Repeat([]byte("x"), 1<<20); ; {
					if _, err := w.Write(part); err != nil {
						return
					}
				}
			})).hurried(writing).opens()
			ask(f)
			await(t, "the handlers to give up", func() bool { return began.Load() > 0 && ended.Load() == began.Load() })
		})
	}
}
