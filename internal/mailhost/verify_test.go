//go:build unix

package mailhost

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/payload"
	"github.com/certpost/certpost/internal/verdict"
)

// mailServer is a scripted server. talk is its clear-text part, and reports whether TLS
// begins after it; certificate is asked for each handshake.
type mailServer struct {
	address     string
	connections atomic.Int32
}

func serve(t testing.TB, talk func(*bufio.ReadWriter) bool, certificates func(connection int) []tls.Certificate) *mailServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &mailServer{address: l.Addr().String()}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			n := int(s.connections.Add(1))
			go func() {
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(time.Minute))
				text := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
				if !talk(text) {
					io.Copy(io.Discard, conn)
					return
				}
				list := certificates(n)
				if list == nil {
					return
				}
				secured := tls.Server(conn, &tls.Config{Certificates: list})
				if secured.Handshake() == nil {
					io.Copy(io.Discard, secured)
				}
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return s
}

// lines is a clear-text part: "S: text" is said, "C: text" has to be heard. \ at the end
// leaves out the end of the line, and "TLS" begins TLS.
func lines(script ...string) func(*bufio.ReadWriter) bool {
	return func(text *bufio.ReadWriter) bool {
		for _, line := range script {
			said, ours := strings.CutPrefix(line, "S: ")
			if ours {
				if open, ok := strings.CutSuffix(said, `\`); ok {
					text.WriteString(open)
				} else {
					text.WriteString(said + "\r\n")
				}
				continue
			}
			text.Flush()
			if line == "TLS" {
				return true
			}
			heard, err := text.ReadString('\n')
			if err != nil || !strings.HasPrefix(strings.TrimSpace(heard), strings.TrimPrefix(line, "C: ")) {
				fmt.Fprintf(text, "500 heard %q\r\n", heard)
				text.Flush()
				return false
			}
		}
		text.Flush()
		return false
	}
}

// dialogues are those that lead to TLS.
var dialogues = map[Protocol][]string{
	SMTP:  {"S: 220-mx1", "S: 220 ready", "C: EHLO [127.0.0.1]", "S: 250-mx1", "S: 250-starttls", "S: 250 SIZE", "C: STARTTLS", "S: 220 go ahead", "TLS"},
	LMTP:  {"S: 220 ready", "C: LHLO [127.0.0.1]", "S: 250-mx1", "S: 250 STARTTLS", "C: STARTTLS", "S: 220 go ahead", "TLS"},
	IMAP:  {"S: * OK [CAPABILITY IMAP4rev1 STARTTLS] ready", "C: a1 STARTTLS", "S: * CAPABILITY IMAP4rev1", "S: a1 OK begin", "TLS"},
	POP3:  {"S: +OK ready", "C: STLS", "S: +OK begin", "TLS"},
	Sieve: {`S: "IMPLEMENTATION" "x"`, `S: "STARTTLS"`, "S: OK", "C: STARTTLS", "S: OK begin", "TLS"},
	TLS:   {"TLS"},
}

func tlsCertificate(m Material) []tls.Certificate {
	c := tls.Certificate{Certificate: [][]byte{m.Bundle.Leaf.Raw}, PrivateKey: keyOf(m)}
	for _, cert := range m.Bundle.Chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return []tls.Certificate{c}
}

func withoutChain(m Material) Material {
	m.Bundle = &payload.Bundle{Leaf: m.Bundle.Leaf}
	return m
}

func keyOf(m Material) any {
	c, err := encode(m)
	if err != nil {
		panic(err)
	}
	pair, err := tls.X509KeyPair(c.leafPEM, c.keyPEM)
	if err != nil {
		panic(err)
	}
	return pair.PrivateKey
}

func TestProtocolsAreSpoken(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := a.fresh(t)
	var all []Endpoint
	for p, dialogue := range dialogues {
		s := serve(t, lines(dialogue...), func(int) []tls.Certificate { return tlsCertificate(m) })
		all = append(all, Endpoint{s.address, p})
	}
	d := layouts["combined"](privateDir(t))
	d.Verify = Verification{Endpoints: all, ServerName: serverName, Roots: a.roots}
	r := mustDeploy(t, deployer(), d, m, Deployed)
	if len(r.Served) != len(all) {
		t.Errorf("%+v", r.Served)
	}
	for i, s := range r.Served {
		if s.Protocol != all[i].Protocol || s.Peer != all[i].Address || s.TLS != "TLS 1.3" || s.Attempts != 1 {
			t.Errorf("%+v", s)
		}
	}
	for address, want := range map[string]Protocol{"mx:25": SMTP, "mx:587": SMTP, "mx:465": TLS, "mx:24": LMTP, "mx:143": IMAP, "mx:993": TLS, "mx:110": POP3, "[::1]:995": TLS, "mx:4190": Sieve, "mx:2525": "", "mx": ""} {
		if got := ProtocolOf(address); got != want {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

// TestWhatIsNotServed: every way in which a server does not serve the certificate fails the
// deployment, and the former files come back.
//
// Fault: STARTTLS not offered or refused; plaintext before TLS; another certificate; a
// chain that is not sent; silence; endless answers. Result: fails (DEPLOY_VERIFY).
func TestWhatIsNotServed(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	former, next, third := a.fresh(t), a.fresh(t), a.fresh(t)
	serves := func(m Material) func(int) []tls.Certificate {
		return func(int) []tls.Certificate { return tlsCertificate(m) }
	}
	bare := withoutChain(next)
	for name, c := range map[string]struct {
		protocol Protocol
		talk     []string
		serves   Material
		text     string
	}{
		"the former":                 {TLS, dialogues[TLS], former, "still serves the former"},
		"another":                    {SMTP, dialogues[SMTP], third, "check which files its settings name"},
		"no chain":                   {TLS, dialogues[TLS], bare, `"Test CA" is missing`},
		"no STARTTLS by SMTP":        {SMTP, []string{"S: 220 x", "C: EHLO", "S: 250 SIZE"}, next, "does not offer STARTTLS"},
		"no STARTTLS by LMTP":        {LMTP, []string{"S: 220 x", "C: LHLO", "S: 250 SIZE"}, next, "does not offer STARTTLS"},
		"no STARTTLS by Sieve":       {Sieve, []string{"S: OK"}, next, "does not offer STARTTLS"},
		"454":                        {SMTP, []string{"S: 220 x", "C: EHLO", "S: 250 STARTTLS", "C: STARTTLS", "S: 454 4.7.0 TLS not available"}, next, "TLS not available"},
		"BAD":                        {IMAP, []string{"S: * OK", "C: a1 STARTTLS", "S: a1 BAD no"}, next, "a1 BAD no"},
		"BYE after OK":               {IMAP, []string{"S: * OK", "C: a1 STARTTLS", "S: a1 OK go", "S: * BYE TLS init failed", "TLS"}, next, "more than its answer"},
		"-ERR":                       {POP3, []string{"S: +OK", "C: STLS", "S: -ERR no"}, next, "-ERR no"},
		"NO":                         {Sieve, []string{`S: "STARTTLS"`, "S: OK", "C: STARTTLS", "S: NO no"}, next, "NO no"},
		"injected into SMTP":         {SMTP, []string{"S: 220 x", "C: EHLO", "S: 250 STARTTLS", "C: STARTTLS", "S: 220 go", "S: 250 injected", "TLS"}, next, "more than its answer"},
		"injected into POP3":         {POP3, []string{"S: +OK", "C: STLS", "S: +OK", `S: +\`, "TLS"}, next, "more than its answer"},
		"a greeting of 554":          {SMTP, []string{"S: 554 no"}, next, "554 no"},
		"another protocol":           {SMTP, dialogues[IMAP], next, "instead of 220"},
		"a line without end":         {IMAP, []string{`S: * OK ` + strings.Repeat("x", 20<<10)}, next, "too long"},
		"lines without end":          {SMTP, []string{"S: 220-x" + strings.Repeat("\r\n220-x", 500)}, next, "too long"},
		"clear text instead of TLS":  {TLS, dialogues[IMAP], next, "TLS: "},
		"nothing after the greeting": {SMTP, []string{"S: 220 x", "C: EHLO"}, next, "timeout"},
		"silence":                    {POP3, nil, next, "timeout"},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			d := layouts["apart"](privateDir(t))
			mustDeploy(t, deployer(), d, former, Deployed)
			before := snapshot(t, pathOf(d))
			s := serve(t, lines(c.talk...), serves(c.serves))
			d.Verify = Verification{Endpoints: []Endpoint{{s.address, c.protocol}}, Attempts: 1, Timeout: 2 * time.Second}
			want := RollbackFailed // it serves neither
			if c.text == "still serves the former" {
				want = Restored
			}
			f := wantFailure(t, deployer(), d, next, verdict.DeployVerify, StepVerify, want)
			if !strings.Contains(f.Reason, c.text) || !strings.Contains(f.Reason, s.address) {
				t.Errorf("%s, want %q", f.Reason, c.text)
			}
			wantSame(t, before, snapshot(t, pathOf(d)))
		})
	}
}

func pathOf(d Deployment) string { return d.CertPath[:strings.LastIndex(d.CertPath, "/")] }

// TestSlowReload: the program loads the files only a while after its reload, and drops a
// connection meanwhile.
//
// Fault: the server loads the files late; drops a connection. Result: verified again.
func TestSlowReload(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	former, next := a.fresh(t), a.fresh(t)
	d := layouts["combined"](privateDir(t))
	mustDeploy(t, deployer(), d, former, Deployed)
	s := serve(t, lines(dialogues[IMAP]...), func(n int) []tls.Certificate {
		switch {
		case n == 1:
			return nil
		case n < 5: // a certificate that is not accepted is asked for twice: see probe
			return tlsCertificate(former)
		}
		return tlsCertificate(next)
	})
	d.Verify = Verification{Endpoints: []Endpoint{{s.address, IMAP}}, ServerName: serverName, Roots: a.roots}
	r := mustDeploy(t, deployer(), d, next, Deployed)
	if r.Served[0].Attempts < 3 {
		t.Errorf("%+v", r.Served)
	}
}

// TestTwoFilesAreReloadedAgain: with two files a process may have loaded one of each; then
// TLS is refused until the next reload.
//
// Fault: or has loaded one of two. Result: reloaded a second time.
func TestTwoFilesAreReloadedAgain(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := a.fresh(t)
	for layout, want := range map[string]int{"apart": 2, "combined": 1} {
		d := layouts[layout](privateDir(t))
		var reloads func() int
		d.ReloadCommand, reloads = counter(t)
		refusing := lines("S: 220 x", "C: EHLO", "S: 250 STARTTLS", "C: STARTTLS", "S: 454 4.7.0 TLS not available")
		ready := lines(dialogues[SMTP]...)
		s := serve(t, func(text *bufio.ReadWriter) bool {
			if reloads() < 2 {
				return refusing(text)
			}
			return ready(text)
		}, func(int) []tls.Certificate { return tlsCertificate(m) })
		d.Verify = Verification{Endpoints: []Endpoint{{s.address, SMTP}}, Attempts: 1}
		if layout == "combined" { // cannot happen, so it is a failure
			wantFailure(t, deployer(), d, m, verdict.DeployVerify, StepVerify, Restored)
			want = 2 // the second is that of the rollback
		} else {
			mustDeploy(t, deployer(), d, m, Deployed)
		}
		if reloads() != want {
			t.Errorf("%s: %d reloads, want %d", layout, reloads(), want)
		}
	}
}

// TestTwoKindsOfKey: a server that has an ECDSA certificate besides the deployed RSA
// certificate, and the other way round.
func TestTwoKindsOfKey(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	ecdsa := a.fresh(t)
	rsa := a.material(t, lab.Issue(t, a.between, lab.NewKey(t, "rsa"), serverName, lab.DNSNames(serverName), unique))
	s := serve(t, lines(dialogues[SMTP]...), func(int) []tls.Certificate {
		return append(tlsCertificate(ecdsa), tlsCertificate(rsa)...)
	})
	for _, m := range []Material{rsa, ecdsa} {
		d := layouts["combined"](privateDir(t))
		d.Verify = Verification{Endpoints: []Endpoint{{s.address, SMTP}}, ServerName: serverName, Roots: a.roots, Attempts: 1}
		mustDeploy(t, deployer(), d, m, Deployed)
	}
}

// TestServerNameIsSent: as SNI.
func TestServerNameIsSent(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m, other := a.fresh(t), a.material(t, lab.Issue(t, a.between, lab.NewKey(t, "p256"), "other.example.com", lab.DNSNames("other.example.com"), unique))
	s := serve(t, lines("TLS"), func(int) []tls.Certificate { return append(tlsCertificate(other), tlsCertificate(m)...) })
	d := layouts["combined"](privateDir(t))
	d.Verify = Verification{Endpoints: []Endpoint{{s.address, TLS}}, ServerName: serverName, Attempts: 1}
	mustDeploy(t, deployer(), d, m, Deployed)
	d.Verify.ServerName = ""
	wantFailure(t, deployer(), d, a.fresh(t), verdict.DeployVerify, StepVerify, RollbackFailed)
}

// TestServedChainMustLeadToTheRoots: the server leaves out what it was given.
//
// Fault: a chain that is not sent. Result: fails (DEPLOY_VERIFY).
func TestServedChainMustLeadToTheRoots(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	m := a.fresh(t)
	s := serve(t, lines("TLS"), func(int) []tls.Certificate { return tlsCertificate(withoutChain(m)) })
	d := layouts["chain"](privateDir(t)) // the chain is the program's business, but not to clients
	d.Verify = Verification{Endpoints: []Endpoint{{s.address, TLS}}, ServerName: serverName, Roots: a.roots, Attempts: 1}
	f := wantFailure(t, deployer(), d, m, verdict.DeployVerify, StepVerify, Restored)
	if !strings.Contains(f.Reason, x509.UnknownAuthorityError{}.Error()) {
		t.Error(f)
	}
	d.Verify.Roots = nil
	mustDeploy(t, deployer(), d, m, Deployed)
}

// closedAddress is an address where nothing listens.
func closedAddress(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
