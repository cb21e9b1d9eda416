//go:build unix

package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"time"
)

// traits are what a relay is always like.
type traits struct {
	Name     string
	Security string   // tls_mode of its targets: plaintext, starttls or smtps
	Auth     string   // the one method that it offers; "" takes mails without a login
	Offers   []string // beside STARTTLS and AUTH
	Bare     bool     // replies have no text: a code and CRLF, also a 334
	Split    bool     // every byte of a reply in a packet of its own
	Session  int      // mails that it takes on one connection; 0: any number
	Secret   string   // password or token
}

// accepted is a mail that a relay has accepted: it is stored before the reply is sent.
type accepted struct {
	number        uint64 // of the relay's mails
	event, target string
	recipients    []string
	marked        bool // X-Certpost-Possible-Duplicate
}

// relay is an SMTP server in the process with traits that stay and moods that change.
type relay struct {
	traits
	address string
	cert    *tls.Certificate
	foreign *tls.Certificate // of a CA that the targets do not trust

	mu       sync.Mutex
	random   *rand.Rand
	mood     mood
	listener net.Listener
	open     map[net.Conn]bool
	mails    []accepted
	served   sync.WaitGroup
}

// user is the user that logs in.
const user = "certpost"

// newRelay returns a relay that listens at an address of its own.
func newRelay(t traits, random *rand.Rand, address string, cert, foreign *tls.Certificate) (*relay, error) {
	r := &relay{traits: t, address: address, cert: cert, foreign: foreign, random: random, mood: friendly, open: map[net.Conn]bool{}}
	return r, r.listen()
}

func (r *relay) listen() error {
	l, err := net.Listen("tcp", r.address)
	if err != nil {
		return fmt.Errorf("relay %s: %w", r.Name, err)
	}
	r.mu.Lock()
	r.listener = l
	r.mu.Unlock()
	r.served.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r.served.Go(func() { r.serve(conn) })
		}
	})
	return nil
}

// hangUp closes all connections, and the listener.
func (r *relay) hangUp() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != nil {
		_ = r.listener.Close()
		r.listener = nil
	}
	for conn := range r.open {
		_ = conn.Close()
	}
}

// close ends the relay and waits for its conversations.
func (r *relay) close() {
	r.hangUp()
	r.served.Wait()
}

// feel changes the mood.
func (r *relay) feel(m mood) error {
	r.mu.Lock()
	r.mood = m
	listens := r.listener != nil
	r.mu.Unlock()
	switch {
	case m.away && listens:
		r.hangUp()
	case !m.away && !listens:
		return r.listen()
	}
	return nil
}

// taken returns the mails that the relay has accepted, in order.
func (r *relay) taken() []accepted {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.mails)
}

// whim returns what the mood does at a moment, this time.
func (r *relay) whim(moment string) (act, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.mood.acts {
		if a.moment == moment && r.random.Float64() < a.chance {
			return a, true
		}
	}
	return act{}, false
}

// conversation is one connection.
type conversation struct {
	*relay
	conn       net.Conn
	in         *bufio.Reader
	secure     bool
	known      bool // logged in
	carried    int  // mails
	recipients []string
	dsn        bool // the client has used its parameters
}

// silence is how long a relay waits for its client, and how long one that hangs says nothing.
const silence = 30 * time.Second

func (r *relay) serve(conn net.Conn) {
	r.mu.Lock()
	r.open[conn] = true
	r.mu.Unlock()
	c := &conversation{relay: r, conn: conn, in: bufio.NewReader(conn)}
	defer func() {
		_ = conn.Close()
		r.mu.Lock()
		delete(r.open, conn)
		r.mu.Unlock()
	}()
	if r.Security == "smtps" && !c.handshake() || !c.reply("banner", "220 soak.test ESMTP") {
		return
	}
	for c.command() {
	}
}

func (c *conversation) handshake() bool {
	cert := c.cert
	if a, does := c.whim("tls"); does {
		if a.reply != "" {
			_ = c.conn.SetReadDeadline(time.Now().Add(silence))
			_, _ = c.in.Peek(1) // the client has begun
			_, _ = io.WriteString(c.conn, a.reply)
			return false
		}
		cert = c.foreign
	}
	secured := tls.Server(c.conn, &tls.Config{Certificates: []tls.Certificate{*cert}})
	_ = secured.SetDeadline(time.Now().Add(silence))
	if secured.Handshake() != nil {
		return false
	}
	c.conn, c.in, c.secure = secured, bufio.NewReader(secured), true
	return true
}

// reply says what the mood says at the moment, else the usual. It reports whether the
// conversation goes on.
func (c *conversation) reply(moment, usual string) bool {
	a, does := c.whim(moment)
	if !does {
		return c.say(usual)
	}
	return c.perform(a, usual)
}

// perform does what a mood does.
func (c *conversation) perform(a act, usual string) bool {
	switch {
	case a.cut:
		return false
	case a.hang:
		_ = c.conn.SetReadDeadline(time.Now().Add(silence))
		_, _ = io.Copy(io.Discard, c.conn)
		return false
	case a.wait > 0:
		time.Sleep(a.wait)
		return c.say(usual)
	}
	return c.say(a.reply) && !strings.HasPrefix(a.reply, "421")
}

func (c *conversation) say(text string) bool {
	if c.Bare {
		text = bare(text)
	}
	packets := [][]byte{[]byte(text + "\r\n")}
	if c.Split {
		packets = bytes.Split(packets[0], nil)
	}
	for _, p := range packets {
		if _, err := c.conn.Write(p); err != nil {
			return false
		}
	}
	return true
}

// bare removes the text of a reply of one line (RFC 5321, section 4.2 allows that), and adds
// an empty last line to others.
func bare(text string) string {
	begin := strings.LastIndexByte(text, '\n') + 1
	if begin == 0 {
		return text[:3]
	}
	last := text[begin:]
	return text[:begin] + last[:3] + "-" + last[4:] + "\r\n" + last[:3]
}

func (c *conversation) line() (string, bool) {
	_ = c.conn.SetReadDeadline(time.Now().Add(2 * time.Minute))
	text, err := c.in.ReadString('\n')
	return strings.TrimSuffix(text, "\r\n"), err == nil
}

func (c *conversation) command() bool {
	text, ok := c.line()
	if !ok {
		return false
	}
	verb, rest, _ := strings.Cut(text, " ")
	full := c.Session > 0 && c.carried >= c.Session
	const spent = "452 4.4.5 Maximum number of messages per session exceeded"
	switch strings.ToUpper(verb) {
	case "EHLO":
		return c.reply("EHLO", c.greeting())
	case "STARTTLS":
		return c.reply("STARTTLS", "220 2.0.0 go ahead") && c.handshake()
	case "AUTH":
		return c.auth(text, rest)
	case "MAIL":
		c.recipients, c.dsn = nil, strings.Contains(rest, " RET=")
		switch {
		case c.Auth != "" && !c.known:
			return c.say("530 5.7.0 Authentication required")
		case full:
			return c.say(spent)
		case c.dsn && !slices.Contains(c.Offers, "DSN"):
			return c.say("555 5.5.4 Unsupported option: RET")
		}
		return c.reply("MAIL", "250 2.1.0 sender fine")
	case "RCPT":
		a, does := c.whim("RCPT")
		if a.reply == "" && !a.cut { // not refused
			_, rest, _ = strings.Cut(rest, "<")
			address, _, _ := strings.Cut(rest, ">")
			c.recipients = append(c.recipients, address)
		}
		if does {
			return c.perform(a, "250 2.1.5 recipient fine")
		}
		return c.say("250 2.1.5 recipient fine")
	case "DATA":
		if len(c.recipients) == 0 {
			return c.say("503 5.5.1 no recipient")
		}
		return c.content()
	case "RSET":
		c.recipients = nil
		return c.reply("RSET", "250 2.0.0 forgotten")
	case "NOOP":
		return c.say("250 2.0.0 nothing done")
	case "QUIT":
		c.say("221 2.0.0 bye")
		return false
	}
	return c.say("500 5.5.2 unknown command")
}

func (c *conversation) greeting() string {
	lines := append([]string{"soak.test"}, c.Offers...)
	if c.Security == "starttls" && !c.secure {
		lines = append(lines, "STARTTLS")
	} else if c.Auth != "" {
		lines = append(lines, "AUTH "+c.Auth)
	}
	var text strings.Builder
	for _, l := range lines[:len(lines)-1] {
		text.WriteString("250-" + l + "\r\n")
	}
	return text.String() + "250 " + lines[len(lines)-1]
}

// auth takes the one method that the relay offers, with or without an initial response.
func (c *conversation) auth(command, rest string) bool {
	if a, does := c.whim("AUTH"); does {
		return c.perform(a, "")
	}
	if len(command)+2 > 512 { // RFC 4954, section 4
		return c.say("500 5.5.6 line too long")
	}
	method, initial, _ := strings.Cut(rest, " ")
	var given string
	var ok bool
	switch method {
	case "LOGIN":
		if _, ok = c.challenge(); ok {
			given, ok = c.challenge()
		}
	case "PLAIN", "XOAUTH2":
		answer := decoded(initial)
		if ok = initial != ""; !ok {
			answer, ok = c.challenge()
		}
		given = strings.TrimPrefix(strings.TrimPrefix(answer, "\x00"+user+"\x00"), "user="+user+"\x01auth=Bearer ")
		given = strings.TrimSuffix(given, "\x01\x01")
	default:
		return c.say("504 5.5.4 unknown method")
	}
	if !ok {
		return false
	}
	if c.known = given == c.Secret; !c.known {
		return c.say("535 5.7.8 wrong user or password")
	}
	return c.say("235 2.7.0 welcome")
}

func (c *conversation) challenge() (string, bool) {
	if !c.say("334 ") {
		return "", false
	}
	answer, ok := c.line()
	return decoded(answer), ok
}

func decoded(text string) string {
	plain, _ := base64.StdEncoding.DecodeString(text)
	return string(plain)
}

// content reads a mail and accepts it, unless the mood is against it. A mail is stored before
// the reply: whether the client gets the reply is another matter.
func (c *conversation) content() bool {
	if a, does := c.whim("DATA"); does {
		return c.perform(a, "354 go on") && (a.wait == 0 || c.body())
	}
	return c.say("354 go on") && c.body()
}

func (c *conversation) body() bool {
	if a, does := c.whim("content"); does && a.cut {
		_, _ = c.in.ReadByte()
		return false
	}
	var text strings.Builder
	for {
		_ = c.conn.SetReadDeadline(time.Now().Add(silence))
		line, err := c.in.ReadString('\n')
		if err != nil {
			return false
		}
		if line == ".\r\n" {
			break
		}
		text.WriteString(strings.TrimPrefix(line, "."))
	}
	a, does := c.whim("dot")
	if does && a.reply != "" { // refused
		return c.perform(a, "")
	}
	if err := c.accept(text.String()); err != nil {
		return c.say("554 5.6.0 " + err.Error())
	}
	const queued = "250 2.0.0 Ok: queued as 4Tz9QX2hN1z"
	if does {
		return c.perform(a, queued)
	}
	return c.say(queued)
}

func (c *conversation) accept(text string) error {
	read, err := mail.ReadMessage(strings.NewReader(text))
	if err != nil {
		return errors.New("no mail")
	}
	c.carried++
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mails = append(c.mails, accepted{
		number: uint64(len(c.mails)), event: read.Header.Get("X-Certpost-Event-Id"), target: read.Header.Get("X-Certpost-Target"),
		recipients: c.recipients, marked: read.Header.Get("X-Certpost-Possible-Duplicate") != "",
	})
	return nil
}
