package delivery

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/certpost/certpost/internal/lab"
	"github.com/certpost/certpost/internal/secrets"
	"github.com/certpost/certpost/internal/verdict"
)

// scramLies are what a relay does that does not know the password, or means ill.
type scramLies struct {
	iterations int    // 0: 4096
	order      string // of the relay's messages: "rv5" is right, 5 being the 235; "-" is an empty challenge
	falseProof bool
	nothing    bool // the proof is that of one who knows nothing at all
}

// auth is the relay's side of AUTH.
func (c *conversation) auth(rest string) bool {
	if a, scripted := c.next(atAuth); scripted {
		return c.perform(a, "")
	}
	method, initial, _ := strings.Cut(rest, " ")
	method = strings.ToUpper(method)
	var user string
	var known, ok bool
	switch method {
	case "PLAIN":
		parts := strings.Split(decoded(initial), "\x00")
		if len(parts) != 3 {
			return c.say(act{reply: "501 5.5.2 not PLAIN"})
		}
		user, known, ok = parts[1], c.knows(parts[1], parts[2]), true
	case "LOGIN":
		if user, ok = c.challenge("Username:"); ok {
			var password string
			password, ok = c.challenge("Password:")
			known = c.knows(user, password)
		}
	case "CRAM-MD5":
		user, known, ok = c.cramMD5()
	case "XOAUTH2":
		user, known, ok = c.xoauth2(decoded(initial))
	case "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS":
		user, known, ok = c.scram(method)
	default:
		return c.say(act{reply: "504 5.5.4 " + method + " is not known"})
	}
	switch {
	case !ok:
		return false
	case !known:
		return c.say(act{reply: "535 5.7.8 wrong user or password"})
	}
	c.user = user
	return c.say(act{reply: "235 2.7.0 welcome"})
}

// challenge says 334 and returns the answer.
func (c *conversation) challenge(text string) (string, bool) {
	if !c.say(act{reply: "334 " + base64.StdEncoding.EncodeToString([]byte(text))}) {
		return "", false
	}
	line, ok := c.line()
	return decoded(line), ok
}

func (c *conversation) knows(user, password string) bool {
	known, ok := c.users[user]
	return c.users == nil || ok && known == password
}

func (c *conversation) cramMD5() (user string, known, ok bool) {
	const challenge = "<1896.697170952@postoffice.example.net>"
	answer, ok := c.challenge(challenge)
	user, digest, _ := strings.Cut(answer, " ")
	mac := hmac.New(md5.New, []byte(c.users[user]))
	mac.Write([]byte(challenge))
	return user, c.users[user] != "" && digest == hex.EncodeToString(mac.Sum(nil)), ok
}

// xoauth2 says what is wrong in a challenge, which has to be answered by an empty line.
func (c *conversation) xoauth2(message string) (user string, known, ok bool) {
	user, rest, _ := strings.Cut(strings.TrimPrefix(message, "user="), "\x01auth=Bearer ")
	if token, whole := strings.CutSuffix(rest, "\x01\x01"); whole && c.knows(user, token) {
		return user, true, true
	}
	answer, ok := c.challenge(`{"status":"401","schemes":"bearer","scope":"https://mail.example.com/"}`)
	return user, false, ok && answer == ""
}

// scram is RFC 5802 from the relay's side, as far as lies allow.
func (c *conversation) scram(method string) (user string, known, ok bool) {
	order, iterations := c.lies.order, c.lies.iterations
	if order == "" {
		order = "-rv5"
	}
	if iterations == 0 {
		iterations = 4096
	}
	salt := []byte("a salt for " + method)
	var first, nonce, serverFirst, final string
	for _, message := range order {
		switch message {
		case '-':
			answer, more := c.challenge("")
			if !more {
				return "", false, false
			}
			_, first, _ = strings.Cut(answer, ",,")
			name, random, _ := strings.Cut(first, ",r=")
			user, nonce = strings.TrimPrefix(name, "n="), random+rand.Text()
		case 'r':
			serverFirst = fmt.Sprintf("r=%s,s=%s,i=%d", nonce, base64.StdEncoding.EncodeToString(salt), iterations)
			if final, ok = c.challenge(serverFirst); !ok {
				return "", false, false
			}
		case 'v':
			proof, good := c.scramProof(method, user, salt, iterations, first, serverFirst, final)
			if c.users != nil && !good && !c.lies.falseProof && !c.lies.nothing {
				return user, false, true
			}
			if _, ok = c.challenge("v=" + proof); !ok {
				return "", false, false
			}
		case '5':
			return user, true, true
		}
	}
	return user, false, true
}

func (c *conversation) scramProof(method, user string, salt []byte, iterations int, first, serverFirst, final string) (proof string, good bool) {
	mac := func(key []byte, text string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(text))
		return h.Sum(nil)
	}
	salted, err := pbkdf2.Key(sha256.New, c.users[user], salt, iterations, sha256.Size)
	if err != nil {
		return "", false
	}
	if c.lies.nothing {
		return base64.StdEncoding.EncodeToString(mac(mac(nil, "Server Key"), "")), true
	}
	if c.lies.falseProof {
		salted[0]++
	}
	bare, given, _ := strings.Cut(final, ",p=")
	message := first + "," + serverFirst + "," + bare
	clientKey := mac(salted, "Client Key")
	stored := sha256.Sum256(clientKey)
	signature := mac(stored[:], message)
	for i := range signature {
		signature[i] ^= clientKey[i]
	}
	binding := "n,,"
	if strings.HasSuffix(method, "-PLUS") {
		state := c.conn.(*tls.Conn).ConnectionState()
		bound, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
		if err != nil {
			return "", false
		}
		binding = "p=tls-exporter,," + string(bound)
	}
	bound := strings.HasPrefix(bare, "c="+base64.StdEncoding.EncodeToString([]byte(binding))+",r=")
	return base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), message)),
		bound && base64.StdEncoding.EncodeToString(signature) == given
}

// SCRAM binds both sides: a relay that does not know the password, or takes the
// steps in an order that lets it get around proving it, is not believed.
func TestSCRAMRelaysHaveToProveThemselves(t *testing.T) {
	t.Parallel()
	const password = "correct-horse-battery"
	ca := newAuthority(t, "Test CA")
	for name, test := range map[string]struct {
		lies   scramLies
		offers string
		code   verdict.Code // "": succeeds
		says   string
	}{
		"honest":                        {offers: "SCRAM-SHA-256"},
		"honest, bound to TLS":          {offers: "SCRAM-SHA-256 SCRAM-SHA-256-PLUS"},
		"235 without a proof":           {lies: scramLies{order: "-r5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"235 at once":                   {lies: scramLies{order: "5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"235 after the first message":   {lies: scramLies{order: "-5"}, code: verdict.SMTPAuth, says: "did not prove"},
		"a false proof":                 {lies: scramLies{falseProof: true}, code: verdict.SMTPAuth, says: "did not prove"},
		"the proof of an empty state":   {lies: scramLies{order: "-v5", nothing: true}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"begun again after its message": {lies: scramLies{order: "-r-v5", nothing: true}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"its first message twice":       {lies: scramLies{order: "-rrv5"}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"its proof twice":               {lies: scramLies{order: "-rvv5"}, code: verdict.SMTPTransient, says: "a challenge that has no place there"},
		"one iteration":                 {lies: scramLies{iterations: 1}, code: verdict.SMTPAuth, says: "iterations"},
		"two thousand million":          {lies: scramLies{iterations: 2_000_000_000}, code: verdict.SMTPAuth, says: "iterations"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.offers == "" {
				test.offers = "SCRAM-SHA-256"
			}
			server := startRelay(t, relayScript{cert: ca.issue(t, nil), implicit: true, lies: test.lies,
				offers: []string{"AUTH " + test.offers}, users: map[string]string{"certs": password}})
			r := server.client()
			r.tlsMode, r.roots = "smtps", ca.pool()
			r.authMethod, r.username, r.password = "scram-sha-256", "certs", secrets.New([]byte(password))
			_, f := attempt(patient(t), r, someone, someMail).verdicts()
			if test.code == "" {
				if f != nil || server.taken()[0].user != "certs" {
					t.Fatalf("%v, %+v", f, server.taken())
				}
				return
			}
			if f == nil || f.Code != test.code || f.Phase != verdict.PhaseAuth || !strings.Contains(f.Reason, test.says) {
				t.Fatalf("got %+v", f)
			}
			if heard := server.heard(); slices.Contains(heard, "MAIL") {
				t.Errorf("heard %v", heard)
			}
			server.idle(t)
		})
	}
}

// A relay may want to see a certificate of ours.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ca, ours, other := newAuthority(t, "Test CA"), newAuthority(t, "Client CA"), newAuthority(t, "Other CA")
	server := startRelay(t, relayScript{cert: ca.issue(t, nil), clients: ours.pool()})
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "client.pem"), filepath.Join(dir, "client-key.pem")
	install := func(a *testAuthority) {
		client := a.issue(t, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} })
		lab.Write(t, certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: client.Certificate[0]}))
		der, err := x509.MarshalPKCS8PrivateKey(client.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		lab.Write(t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	}
	install(ours)
	o := newOffice(t, server.client(), RelayLimits{}, func(target *Target) {
		target.TLSMode, target.CAFile, target.ClientCertFile, target.ClientKeyFile = TLSStartTLS, ca.file(t), certFile, keyFile
	})
	for n := range 2 {
		if receipt := o.mustDeliver(); (receipt.Timings.Dial == 0) != (n > 0) {
			t.Errorf("mail %d: %+v", n, receipt.Timings)
		}
	}
	install(ours) // renewed
	if receipt := o.mustDeliver(); receipt.Timings.Dial == 0 {
		t.Error("a connection made with the old certificate was used")
	}
	install(other)
	if _, f := o.deliver(patient(t)); f == nil || f.Code != verdict.SMTPTLS {
		t.Errorf("a certificate that the relay does not know: %v", f)
	}
	key, _ := readTargetFile("client_key_file", keyFile)
	install(ours)
	for _, mistake := range []struct {
		name string
		do   func()
		says string
	}{
		{"the key of another", func() { lab.Write(t, keyFile, key) }, "client_cert_file"},
		{"no key", func() { lab.Write(t, keyFile, []byte("hello")) }, "client_cert_file"},
		{"gone", func() { o.redefine(func(target *Target) { target.ClientKeyFile += ".gone" }) }, "client_key_file"},
	} {
		name := mistake.name
		mistake.do()
		dials, _ := server.dials()
		_, f := o.deliver(patient(t))
		if f == nil || f.Code != verdict.TargetInvalid || !strings.Contains(f.Reason, mistake.says) {
			t.Errorf("%s: %v", name, f)
		}
		if now, _ := server.dials(); now != dials {
			t.Errorf("%s: the relay was called in vain", name)
		}
	}
	o.redefine(func(target *Target) { target.ClientCertFile, target.ClientKeyFile = "", "" })
	if _, f := o.deliver(patient(t)); f == nil || f.Code != verdict.SMTPTLS || !strings.Contains(f.Reason, "client_cert_file") {
		t.Errorf("without a certificate: %v", f)
	}
}
