package delivery

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// The moments at which a scripted relay can misbehave. A command's name is the
// moment of its reply.
const (
	atConnect  = "connect" // before the banner, or before the handshake on SMTPS
	atBanner   = "banner"
	atEHLO     = "EHLO"
	atSTARTTLS = "STARTTLS"
	atTLS      = "tls" // instead of the handshake
	atAuth     = "AUTH"
	atMail     = "MAIL"
	atRcpt     = "RCPT"
	atRset     = "RSET"
	atData     = "DATA"
	atContent  = "content" // amid the content, before the dot
	atDot      = "dot"     // the reply to the final dot
	atQuit     = "QUIT"
)

// act is what a scripted relay does at a moment instead of what is expected.
type act struct {
	reply   string          // raw, without the last CRLF; "" says nothing
	behind  string          // sent right behind the reply, in the same packet
	slowly  bool            // the reply goes out byte by byte, each in a packet of its own
	endless bool            // the reply's first line is repeated until the client goes
	take    bool            // at the dot: keep the mail first
	drop    bool            // close the connection then
	hang    bool            // say and read nothing more until the client goes
	wait    <-chan struct{} // until then do nothing
	only    int             // happens at the nth time alone; 0 is every time
}

// relayScript says how a scripted relay differs from a friendly one.
type relayScript struct {
	acts     map[string]act
	offers   []string // after the greeting line of EHLO; nil offers everything
	implicit bool     // SMTPS
	cert     *tls.Certificate
	maxTLS   uint16
	users    map[string]string // AUTH succeeds for these; nil takes anybody
	perRcpt  map[string]string // replies to RCPT by address
	noEHLO   bool              // knows HELO alone
	noUTF8   bool              // refuses SMTPUTF8, whatever it offers, as Exchange does
	lies     scramLies
	clients  *x509.CertPool // whose certificates a client has to show; nil asks for none
}

type testMail struct {
	user       string // who had logged in
	from       string
	recipients []string
	content    string
}

// scriptedRelay is an SMTP server in the process that fails where it is told.
type scriptedRelay struct {
	relayScript
	listener net.Listener
	served   sync.WaitGroup

	mu       sync.Mutex
	mails    []testMail
	commands []string // verbs, in order of arrival
	ahead    int      // commands that were there before the one ahead of them was answered
	seen     map[string]int
	open     map[net.Conn]bool
	accepted int
	live     int // connections that have not said QUIT
	most     int // of these at a time
}

func startRelay(t testing.TB, script relayScript) *scriptedRelay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &scriptedRelay{relayScript: script, listener: listener, seen: map[string]int{}, open: map[net.Conn]bool{}}
	if r.offers == nil {
		r.offers = []string{"PIPELINING", "8BITMIME", "SIZE 10485760", "SMTPUTF8", "STARTTLS", "AUTH PLAIN LOGIN", "ENHANCEDSTATUSCODES"}
	}
	r.served.Add(1)
	go func() {
		defer r.served.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.open[conn] = true
			r.accepted++
			r.live++
			r.most = max(r.most, r.live)
			r.mu.Unlock()
			r.served.Add(1)
			go func() {
				defer r.served.Done()
				r.serve(conn)
				_ = conn.Close()
				r.mu.Lock()
				delete(r.open, conn)
				r.mu.Unlock()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		r.mu.Lock()
		for conn := range r.open {
			_ = conn.Close()
		}
		r.mu.Unlock()
		r.served.Wait()
	})
	return r
}

// Address is where the relay listens: 127.0.0.1 and a port.
func (r *scriptedRelay) Address() string { return r.listener.Addr().String() }

// Port is the port on which the relay listens, on 127.0.0.1.
func (r *scriptedRelay) Port() int { return r.listener.Addr().(*net.TCPAddr).Port }

func (r *scriptedRelay) taken() []testMail {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mails)
}

func (r *scriptedRelay) heard() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.commands)
}

// idle waits until no connection is open, which the client has to see to.
func (r *scriptedRelay) idle(t testing.TB) {
	t.Helper()
	eventually(t, "every connection to be closed by the client", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.open) == 0
	})
}

// hangUp ends every connection from the relay's side, with some last words.
func (r *scriptedRelay) hangUp(words string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for conn := range r.open {
		_, _ = io.WriteString(conn, words)
		_ = conn.Close()
	}
}

func (r *scriptedRelay) dials() (all, most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted, r.most
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited 10s for %s", what)
}

// conversation is one connection to a scripted relay.
type conversation struct {
	*scriptedRelay
	conn net.Conn
	in   *bufio.Reader
	mail testMail
	tls  bool
	user string // who has logged in
	left bool   // said QUIT
}

func (r *scriptedRelay) serve(conn net.Conn) {
	c := &conversation{scriptedRelay: r, conn: conn, in: bufio.NewReader(conn)}
	defer c.leave()
	if c.at(atConnect, "") && (!r.implicit || c.secure()) && c.at(atBanner, "220 scripted.test ESMTP") {
		for c.command() {
		}
	}
}

func (c *conversation) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.left {
		c.left, c.live = true, c.live-1
	}
}

// next reports whether the script has something for the moment, this time.
func (c *conversation) next(moment string) (act, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen[moment]++
	a, scripted := c.acts[moment]
	return a, scripted && (a.only == 0 || a.only == c.seen[moment])
}

// at does what the script says for the moment, or gives the usual reply. It
// reports whether the conversation goes on.
func (c *conversation) at(moment, usual string) bool {
	if a, scripted := c.next(moment); scripted {
		return c.perform(a, usual)
	}
	return c.say(act{reply: usual})
}

// agree is at for a command that something follows when the reply is the usual one.
func (c *conversation) agree(moment, usual string, then func() bool) bool {
	a, scripted := c.next(moment)
	if !scripted {
		a = act{reply: usual}
	}
	return c.perform(a, usual) && (!strings.HasPrefix(a.reply, usual[:3]) || then())
}

func (c *conversation) perform(a act, usual string) bool {
	if a.wait != nil {
		<-a.wait
		if a.reply == "" && !a.drop && !a.hang {
			a.reply = usual
		}
	}
	if a.take {
		c.keep()
	}
	if !c.say(a) {
		return false
	}
	if a.drop {
		return false
	}
	if a.hang {
		_, _ = io.Copy(io.Discard, c.conn)
		return false
	}
	return true
}

// stall reads nothing until the relay is closed, so that the client's writes
// fill the buffers and block.
func (c *conversation) stall() {
	for one := make([]byte, 1); ; {
		_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := io.ReadFull(c.conn, one); err != nil {
			if network, ok := err.(net.Error); !ok || !network.Timeout() {
				return
			}
		}
	}
}

func (c *conversation) say(a act) bool {
	if a.reply == "" {
		return true
	}
	text := a.reply + "\r\n" + a.behind
	for {
		packets := [][]byte{[]byte(text)}
		if a.slowly {
			packets = bytes.Split([]byte(text), nil)
		}
		for _, packet := range packets {
			if _, err := c.conn.Write(packet); err != nil {
				return false
			}
		}
		if !a.endless {
			return true
		}
	}
}

func (c *conversation) secure() bool {
	if a, scripted := c.next(atTLS); scripted {
		_, _ = c.in.Peek(1) // the client has begun
		return c.perform(a, "")
	}
	config := &tls.Config{Certificates: []tls.Certificate{*c.cert}, MaxVersion: c.maxTLS, MinVersion: tls.VersionTLS10}
	if c.clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, c.clients
	}
	secured := tls.Server(c.conn, config)
	if secured.Handshake() != nil {
		return false
	}
	c.conn, c.in, c.tls = secured, bufio.NewReader(secured), true
	return true
}

func (c *conversation) line() (string, bool) {
	text, err := c.in.ReadString('\n')
	return strings.TrimSuffix(text, "\r\n"), err == nil
}

func (c *conversation) command() bool {
	text, ok := c.line()
	if !ok {
		return false
	}
	verb, rest, _ := strings.Cut(text, " ")
	verb = strings.ToUpper(verb)
	c.mu.Lock()
	c.commands = append(c.commands, verb)
	if c.in.Buffered() > 0 {
		c.ahead++
	}
	c.mu.Unlock()
	switch verb {
	case "EHLO":
		if c.noEHLO {
			return c.at(atEHLO, "502 5.5.1 What is EHLO?")
		}
		lines := []string{"scripted.test"}
		for _, offer := range c.offers {
			if offer != "STARTTLS" || !c.tls {
				lines = append(lines, offer)
			}
		}
		return c.at(atEHLO, multiline(250, lines))
	case "HELO":
		return c.at("HELO", "250 scripted.test")
	case "STARTTLS":
		return c.agree(atSTARTTLS, "220 2.0.0 go ahead", c.secure)
	case "AUTH":
		return c.auth(rest)
	case "MAIL":
		if c.noUTF8 && strings.Contains(rest, " SMTPUTF8") {
			return c.say(act{reply: "502 5.3.3 command not implemented"})
		}
		c.mail = testMail{from: path(rest), user: c.user}
		return c.at(atMail, "250 2.1.0 sender fine")
	case "RCPT":
		c.mu.Lock()
		reply, scripted := c.perRcpt[path(rest)]
		c.mu.Unlock()
		if !scripted {
			reply = "250 2.1.5 recipient fine"
		}
		if strings.HasPrefix(reply, "2") {
			c.mail.recipients = append(c.mail.recipients, path(rest))
		}
		return c.at(atRcpt, reply)
	case "DATA":
		return c.agree(atData, "354 go on", c.content)
	case "RSET":
		c.mail = testMail{}
		return c.at(atRset, "250 2.0.0 forgotten")
	case "NOOP":
		return c.say(act{reply: "250 2.0.0 nothing done"})
	case "QUIT":
		c.leave()
		c.at(atQuit, "221 2.0.0 bye")
		return false
	}
	return c.say(act{reply: "500 5.5.2 unknown command"})
}

// content reads a mail up to its dot; what ends otherwise is not kept.
func (c *conversation) content() bool {
	var text strings.Builder
	if a, scripted := c.next(atContent); scripted {
		if a.hang {
			c.stall()
		}
		_, _ = c.in.ReadByte() // the rest stays unread, so that closing resets the connection
		if a.reply == "" {
			_ = c.conn.(*net.TCPConn).SetLinger(0)
		}
		return c.perform(a, "")
	}
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		text.WriteString(strings.TrimPrefix(line, "."))
	}
	c.mail.content = text.String()
	const queued = "250 2.0.0 Ok: queued as 4Tz9QX2hN1z"
	if a, scripted := c.next(atDot); scripted {
		return c.perform(a, queued)
	}
	c.keep()
	return c.say(act{reply: queued})
}

func (c *conversation) keep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mails = append(c.mails, c.mail)
}

func decoded(text string) string {
	plain, _ := base64.StdEncoding.DecodeString(text)
	return string(plain)
}

func multiline(code int, lines []string) string {
	last := len(lines) - 1
	var b strings.Builder
	for _, line := range lines[:last] {
		fmt.Fprintf(&b, "%d-%s\r\n", code, line)
	}
	fmt.Fprintf(&b, "%d %s", code, lines[last])
	return b.String()
}

func path(argument string) string {
	_, rest, _ := strings.Cut(argument, "<")
	address, _, _ := strings.Cut(rest, ">")
	return address
}

// testAuthority issues certificates for scripted relays.
type testAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) *testAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &testAuthority{cert, key}
}

func (a *testAuthority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// issue makes a certificate for 127.0.0.1, changed as wished.
func (a *testAuthority) issue(t testing.TB, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "scripted.test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// file writes the CA's certificate to a file.
func (a *testAuthority) file(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, a.pem(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (a *testAuthority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}
