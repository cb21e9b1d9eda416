package lab

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
	AtBanner   = "banner"
	AtEHLO     = "EHLO"
	AtSTARTTLS = "STARTTLS"
	AtTLS      = "tls" // instead of the handshake
	AtAuth     = "AUTH"
	AtMail     = "MAIL"
	AtRcpt     = "RCPT"
	AtRset     = "RSET"
	AtData     = "DATA"
	AtContent  = "content" // amid the content, before the dot
	AtDot      = "dot"     // the reply to the final dot
	AtQuit     = "QUIT"
)

// RelayAct is what a scripted relay does at a moment instead of what is expected.
type RelayAct struct {
	Reply   string          // raw, without the last CRLF; "" says nothing
	Behind  string          // sent right behind the reply, in the same packet
	Slowly  bool            // the reply goes out byte by byte, each in a packet of its own
	Endless bool            // the reply's first line is repeated until the client goes
	Take    bool            // at the dot: keep the mail first
	Drop    bool            // close the connection then
	Hang    bool            // say and read nothing more until the client goes
	Wait    <-chan struct{} // until then do nothing
	Only    int             // happens at the nth time alone; 0 is every time
}

// RelayScript says how a scripted relay differs from a friendly one.
type RelayScript struct {
	Acts     map[string]RelayAct
	Offers   []string // after the greeting line of EHLO; nil offers everything
	Implicit bool     // SMTPS
	Cert     *tls.Certificate
	MaxTLS   uint16
	Users    map[string]string // AUTH succeeds for these; nil takes anybody
	PerRcpt  map[string]string // replies to RCPT by address
	Session  SessionLimit
	NoEHLO   bool   // knows HELO alone
	NoDSN    string // refuses the parameters of DSN at AtMail or AtRcpt, whatever it offers
	NoUTF8   bool   // refuses SMTPUTF8, whatever it offers, as Exchange does
	Bare     bool   // replies have no text: a code and CRLF, also as the last line of several
	Lies     ScramLies
	Clients  *x509.CertPool // whose certificates a client has to show; nil asks for none
}

// SessionLimit is how many mails a scripted relay takes on one connection.
type SessionLimit struct {
	Mails  int    // 0: any number
	Moment string // of the refusal of further ones: AtMail, AtRcpt, AtData or AtDot
	Reply  string
}

type testMail struct {
	User       string // who had logged in
	From       string
	Recipients []string
	Content    string
	Parameters []string // of MAIL, then of each RCPT
}

// ScriptedRelay is an SMTP server in the process that fails where it is told.
type ScriptedRelay struct {
	RelayScript
	Listener net.Listener
	served   sync.WaitGroup

	Mu       sync.Mutex
	mails    []testMail
	commands []string // verbs, in order of arrival
	Ahead    int      // commands that were there before the one ahead of them was answered
	Prompted int      // PLAIN and XOAUTH2 without an initial response
	Seen     map[string]int
	open     map[net.Conn]bool
	accepted int
	Live     int // connections that have not said QUIT
	most     int // of these at a time
}

func StartRelay(t testing.TB, script RelayScript) *ScriptedRelay {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &ScriptedRelay{RelayScript: script, Listener: listener, Seen: map[string]int{}, open: map[net.Conn]bool{}}
	if r.Offers == nil {
		r.Offers = []string{"PIPELINING", "8BITMIME", "SIZE 10485760", "SMTPUTF8", "STARTTLS", "AUTH PLAIN LOGIN", "ENHANCEDSTATUSCODES"}
	}
	r.served.Add(1)
	go func() {
		defer r.served.Done()
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.Mu.Lock()
			r.open[conn] = true
			r.accepted++
			r.Live++
			r.most = max(r.most, r.Live)
			r.Mu.Unlock()
			r.served.Add(1)
			go func() {
				defer r.served.Done()
				r.serve(conn)
				_ = conn.Close()
				r.Mu.Lock()
				delete(r.open, conn)
				r.Mu.Unlock()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		r.Mu.Lock()
		for conn := range r.open {
			_ = conn.Close()
		}
		r.Mu.Unlock()
		r.served.Wait()
	})
	return r
}

// Address is where the relay listens: 127.0.0.1 and a port.
func (r *ScriptedRelay) Address() string { return r.Listener.Addr().String() }

// Port is the port on which the relay listens, on 127.0.0.1.
func (r *ScriptedRelay) Port() int { return r.Listener.Addr().(*net.TCPAddr).Port }

func (r *ScriptedRelay) Taken() []testMail {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return slices.Clone(r.mails)
}

func (r *ScriptedRelay) Heard() []string {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return slices.Clone(r.commands)
}

// Idle waits until no connection is open, which the client has to see to.
func (r *ScriptedRelay) Idle(t testing.TB) {
	t.Helper()
	Eventually(t, "every connection to be closed by the client", func() bool {
		r.Mu.Lock()
		defer r.Mu.Unlock()
		return len(r.open) == 0
	})
}

// HangUp ends every connection from the relay's side, with some last words.
func (r *ScriptedRelay) HangUp(words string) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	for conn := range r.open {
		_, _ = io.WriteString(conn, words)
		_ = conn.Close()
	}
}

func (r *ScriptedRelay) Dials() (all, most int) {
	r.Mu.Lock()
	defer r.Mu.Unlock()
	return r.accepted, r.most
}

func Eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	Within(t, 10*time.Second, what, done)
}

// Within waits until done returns true, and fails the test after the limit.
func Within(t testing.TB, limit time.Duration, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited %v for %s", limit, what)
}

// conversation is one connection to a scripted relay.
type conversation struct {
	*ScriptedRelay
	conn net.Conn
	in   *bufio.Reader
	mail testMail
	tls  bool
	user string // who has logged in
	left bool   // said QUIT
	kept int    // mails kept on this connection
}

func (r *ScriptedRelay) serve(conn net.Conn) {
	c := &conversation{ScriptedRelay: r, conn: conn, in: bufio.NewReader(conn)}
	defer c.leave()
	if c.at(atConnect, "") && (!r.Implicit || c.secure()) && c.at(AtBanner, "220 scripted.test ESMTP") {
		for c.command() {
		}
	}
}

func (c *conversation) leave() {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	if !c.left {
		c.left, c.Live = true, c.Live-1
	}
}

// next reports whether the script has something for the moment, this time.
func (c *conversation) next(moment string) (RelayAct, bool) {
	if limit := c.Session; limit.Mails > 0 && c.kept >= limit.Mails && moment == limit.Moment {
		return RelayAct{Reply: limit.Reply}, true
	}
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.Seen[moment]++
	a, scripted := c.Acts[moment]
	return a, scripted && (a.Only == 0 || a.Only == c.Seen[moment])
}

// at does what the script says for the moment, or gives the usual reply. It
// reports whether the conversation goes on.
func (c *conversation) at(moment, usual string) bool {
	if a, scripted := c.next(moment); scripted {
		return c.perform(a, usual)
	}
	return c.say(RelayAct{Reply: usual})
}

// agree is at for a command that something follows when the reply is the usual one.
func (c *conversation) agree(moment, usual string, then func() bool) bool {
	a, scripted := c.next(moment)
	if !scripted {
		a = RelayAct{Reply: usual}
	}
	return c.perform(a, usual) && (!strings.HasPrefix(a.Reply, usual[:3]) || then())
}

func (c *conversation) perform(a RelayAct, usual string) bool {
	if a.Wait != nil {
		<-a.Wait
		if a.Reply == "" && !a.Drop && !a.Hang {
			a.Reply = usual
		}
	}
	if a.Take {
		c.keep()
	}
	if !c.say(a) {
		return false
	}
	if a.Drop {
		return false
	}
	if a.Hang {
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

func (c *conversation) say(a RelayAct) bool {
	if a.Reply == "" {
		return true
	}
	if c.Bare {
		a.Reply = bare(a.Reply)
	}
	text := a.Reply + "\r\n" + a.Behind
	for {
		packets := [][]byte{[]byte(text)}
		if a.Slowly {
			packets = bytes.Split([]byte(text), nil)
		}
		for _, packet := range packets {
			if _, err := c.conn.Write(packet); err != nil {
				return false
			}
		}
		if !a.Endless {
			return true
		}
	}
}

func (c *conversation) secure() bool {
	if a, scripted := c.next(AtTLS); scripted {
		_, _ = c.in.Peek(1) // the client has begun
		return c.perform(a, "")
	}
	config := &tls.Config{Certificates: []tls.Certificate{*c.Cert}, MaxVersion: c.MaxTLS, MinVersion: tls.VersionTLS10}
	if c.Clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, c.Clients
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
	c.Mu.Lock()
	c.commands = append(c.commands, verb)
	if c.in.Buffered() > 0 {
		c.Ahead++
	}
	c.Mu.Unlock()
	switch verb {
	case "EHLO":
		if c.NoEHLO {
			return c.at(AtEHLO, "502 5.5.1 What is EHLO?")
		}
		lines := []string{"scripted.test"}
		for _, offer := range c.Offers {
			if offer != "STARTTLS" || !c.tls {
				lines = append(lines, offer)
			}
		}
		return c.at(AtEHLO, multiline(250, lines))
	case "HELO":
		return c.at("HELO", "250 scripted.test")
	case "STARTTLS":
		return c.agree(AtSTARTTLS, "220 2.0.0 go ahead", c.secure)
	case "AUTH":
		return c.auth(rest)
	case "MAIL":
		if c.NoUTF8 && strings.Contains(rest, " SMTPUTF8") {
			return c.say(RelayAct{Reply: "502 5.3.3 command not implemented"})
		}
		if c.NoDSN == AtMail && strings.Contains(rest, "RET=") {
			return c.say(RelayAct{Reply: "555 5.5.4 Unsupported option: RET=HDRS"})
		}
		c.mail = testMail{From: path(rest), User: c.user, Parameters: []string{parameters(rest)}}
		return c.at(AtMail, "250 2.1.0 sender fine")
	case "RCPT":
		if c.NoDSN == AtRcpt && strings.Contains(rest, "NOTIFY=") {
			return c.say(RelayAct{Reply: "501 5.5.4 Syntax error in parameters"})
		}
		c.Mu.Lock()
		reply, scripted := c.PerRcpt[path(rest)]
		c.Mu.Unlock()
		if !scripted {
			reply = "250 2.1.5 recipient fine"
		}
		refused := c.Session.Mails > 0 && c.kept >= c.Session.Mails && c.Session.Moment == AtRcpt
		if strings.HasPrefix(reply, "2") && !refused {
			c.mail.Recipients = append(c.mail.Recipients, path(rest))
			c.mail.Parameters = append(c.mail.Parameters, parameters(rest))
		}
		return c.at(AtRcpt, reply)
	case "DATA":
		return c.agree(AtData, "354 go on", c.content)
	case "RSET":
		c.mail = testMail{}
		return c.at(AtRset, "250 2.0.0 forgotten")
	case "NOOP":
		return c.say(RelayAct{Reply: "250 2.0.0 nothing done"})
	case "QUIT":
		c.leave()
		c.at(AtQuit, "221 2.0.0 bye")
		return false
	}
	return c.say(RelayAct{Reply: "500 5.5.2 unknown command"})
}

// content reads a mail up to its dot; what ends otherwise is not kept.
func (c *conversation) content() bool {
	var text strings.Builder
	if a, scripted := c.next(AtContent); scripted {
		if a.Hang {
			c.stall()
		}
		_, _ = c.in.ReadByte() // the rest stays unread, so that closing resets the connection
		if a.Reply == "" {
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
	c.mail.Content = text.String()
	const queued = "250 2.0.0 Ok: queued as 4Tz9QX2hN1z"
	if a, scripted := c.next(AtDot); scripted {
		return c.perform(a, queued)
	}
	c.keep()
	return c.say(RelayAct{Reply: queued})
}

func (c *conversation) keep() {
	c.Mu.Lock()
	defer c.Mu.Unlock()
	c.mails = append(c.mails, c.mail)
	c.kept++
}

// bare takes the text from a reply of one line, and adds an empty last line to others.
func bare(reply string) string {
	begin := strings.LastIndex(reply, "\n") + 1
	if begin == 0 {
		return reply[:3]
	}
	last := reply[begin:]
	return reply[:begin] + last[:3] + "-" + last[4:] + "\r\n" + last[:3]
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

// parameters are those behind the path of MAIL or RCPT.
func parameters(argument string) string {
	_, rest, _ := strings.Cut(argument, "> ")
	return rest
}

// TLSAuthority issues certificates for scripted relays.
type TLSAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func NewTLSAuthority(t testing.TB, name string) *TLSAuthority {
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
	return &TLSAuthority{cert, key}
}

func (a *TLSAuthority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// Issue makes a certificate for 127.0.0.1, changed as wished.
func (a *TLSAuthority) Issue(t testing.TB, change func(*x509.Certificate)) *tls.Certificate {
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

// File writes the CA's certificate to a file.
func (a *TLSAuthority) File(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, a.PEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (a *TLSAuthority) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}
