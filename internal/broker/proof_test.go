package broker

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/certpost/certpost/internal/backoff"
	"github.com/certpost/certpost/internal/lab"
)

// signer is a key pair with its public key.
type signer struct {
	nkeys.KeyPair
	public string
}

func newSigner(t *testing.T, create func() (nkeys.KeyPair, error)) signer {
	t.Helper()
	pair, err := create()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return signer{pair, public}
}

// login is what a client writes when it connects, each field as it likes. Its key signs the
// server's challenge.
type login struct {
	User     string `json:"user,omitempty"`
	Password string `json:"pass,omitempty"`
	NKey     string `json:"nkey,omitempty"`
	JWT      string `json:"jwt,omitempty"`
	key      *signer
}

// ask logs in, sends a request with a forged header about its sender, and returns the answer.
// nats.go refuses most of these logins itself.
func (l login) ask(t *testing.T, url, subject string) string {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	var challenge struct{ Nonce string }
	if err != nil || json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &challenge) != nil {
		t.Fatalf("%q, %v", line, err)
	}
	connect := struct {
		login
		Sig     string `json:"sig,omitempty"`
		Headers bool   `json:"headers"`
	}{login: l, Headers: true}
	if l.key != nil {
		sig, err := l.key.Sign([]byte(challenge.Nonce))
		if err != nil {
			t.Fatal(err)
		}
		connect.Sig = base64.RawURLEncoding.EncodeToString(sig)
	}
	text, err := json.Marshal(connect)
	if err != nil {
		t.Fatal(err)
	}
	header := "NATS/1.0\r\n" + requestInfo + ": {\"acc\": \"CERTPOST\", \"user\": \"certpost\"}\r\n\r\n"
	fmt.Fprintf(conn, "CONNECT %s\r\nSUB _INBOX.x 1\r\nHPUB %s _INBOX.x %d %d\r\n%s\r\n", text, subject, len(header), len(header), header)
	for {
		line, err := in.ReadString('\n')
		switch {
		case err != nil || strings.HasPrefix(line, "-ERR") || strings.HasPrefix(line, "HMSG"):
			return strings.TrimSpace(line)
		case strings.HasPrefix(line, "MSG"):
			answer, err := in.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			return strings.TrimSpace(answer)
		}
	}
}

// Who sent a request is the key that the server has verified, whatever else the client writes into
// its login: it may add names and keys there, and the server copies them into the header.
//
// Fault: a NATS user writes another user's name or key into its login. Result: requests are by the
// user whose key signed, or, with a password, only from its account.
func TestSenderIsTheKeyThatSigned(t *testing.T) {
	t.Parallel()
	carol, mallory := newSigner(t, nkeys.CreateUser), newSigner(t, nkeys.CreateUser)
	accounts := func(ops string) string {
		return fmt.Sprintf(`accounts {
			CERTPOST { jetstream: enabled, users: [{user: certpost, password: x}], exports: [{service: "certpost.>"}] }
			OPS { users: [%s], imports: [{service: {account: CERTPOST, subject: "certpost.>"}, share: true}] }
			QUIET { users: [{user: dave, password: x}], imports: [{service: {account: CERTPOST, subject: "certpost.>"}}] }
		}`, ops)
	}
	type attempt struct {
		login login
		want  string
	}
	o := newOperator(t)
	admin := Config{User: "certpost", Password: func() ([]byte, error) { return []byte("x"), nil }}
	for name, c := range map[string]struct {
		server   string
		certpost Config
		logins   map[string]attempt
	}{
		"passwords": {accounts("{user: carol, password: x}"), admin, map[string]attempt{
			"as it should be":             {login{User: "carol", Password: "x"}, "OPS"},
			"with an NKey of another":     {login{User: "carol", Password: "x", NKey: mallory.public}, "OPS"},
			"with an NKey that is a name": {login{User: "carol", Password: "x", NKey: "ada"}, "OPS"},
			"with a JWT of another":       {login{User: "carol", Password: "x", JWT: o.user(t, carol, o.ops)}, "OPS"},
			"without share":               {login{User: "dave", Password: "x"}, "QUIET"},
		}},
		"NKeys": {accounts(fmt.Sprintf("{nkey: %s}, {nkey: %s}, {user: carol, password: x}", carol.public, mallory.public)), admin, map[string]attempt{
			"as it should be":       {login{NKey: carol.public, key: &carol}, "OPS/" + carol.public},
			"with a name":           {login{NKey: mallory.public, key: &mallory, User: "carol"}, "OPS/" + mallory.public},
			"with a JWT of another": {login{NKey: mallory.public, key: &mallory, JWT: o.user(t, carol, o.ops)}, "OPS/" + mallory.public},
			"of another":            {login{NKey: carol.public, key: &mallory}, "-ERR 'Authorization Violation'"},
			"with a password":       {login{User: "carol", Password: "x"}, "OPS"},
		}},
		"JWTs": {o.config, Config{CredentialsFile: o.credentials}, map[string]attempt{
			"as it should be":         {login{JWT: o.user(t, carol, o.ops), key: &carol}, o.ops.public + "/" + carol.public},
			"of a signing key":        {login{JWT: o.user(t, carol, o.signing), key: &carol}, o.ops.public + "/" + carol.public},
			"with a name":             {login{JWT: o.user(t, mallory, o.ops), key: &mallory, User: "carol"}, o.ops.public + "/" + mallory.public},
			"with an NKey of another": {login{JWT: o.user(t, mallory, o.ops), key: &mallory, NKey: carol.public}, o.ops.public + "/" + mallory.public},
			"of another":              {login{JWT: o.user(t, carol, o.ops), key: &mallory}, "-ERR 'Authorization Violation'"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.certpost.URL = lab.NATS(t, lab.FreeAddress(t), c.server).ClientURL()
			answering(t, c.certpost)
			for what, a := range c.logins {
				if got := a.login.ask(t, c.certpost.URL, servicePrefix+"dead.hold"); got != a.want {
					t.Errorf("%s: %q, want %q", what, got, a.want)
				}
			}
		})
	}
}

// natsOperator is an operator of NATS servers with JWT, with an account for Certpost and one for
// those who send requests.
type natsOperator struct {
	config       string // of a server that trusts it
	credentials  string // file of a user in Certpost's account
	ops, signing signer // the account of requests, and its further key
}

func newOperator(t *testing.T) natsOperator {
	t.Helper()
	self, certpost, ops, system := newSigner(t, nkeys.CreateOperator), newSigner(t, nkeys.CreateAccount), newSigner(t, nkeys.CreateAccount), newSigner(t, nkeys.CreateAccount)
	o := natsOperator{ops: ops, signing: newSigner(t, nkeys.CreateAccount), credentials: filepath.Join(t.TempDir(), "user.creds")}
	must := func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	claims := jwt.NewOperatorClaims(self.public)
	claims.SystemAccount = system.public
	mail := jwt.NewAccountClaims(certpost.public)
	mail.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	mail.Exports.Add(&jwt.Export{Subject: servicePrefix + ">", Type: jwt.Service})
	importing := jwt.NewAccountClaims(ops.public)
	importing.Imports.Add(&jwt.Import{Account: certpost.public, Subject: servicePrefix + ">", Type: jwt.Service, Share: true})
	importing.SigningKeys.Add(o.signing.public)
	o.config = fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {", must(claims.Encode(self)), system.public)
	for _, account := range []*jwt.AccountClaims{mail, importing, jwt.NewAccountClaims(system.public)} {
		o.config += fmt.Sprintf("\n%s: %s", account.Subject, must(account.Encode(self)))
	}
	o.config += "\n}\n"
	user := newSigner(t, nkeys.CreateUser)
	seed, err := user.Seed()
	must("", err)
	creds, err := jwt.FormatUserConfig(o.user(t, user, certpost), seed)
	must("", err)
	must("", os.WriteFile(o.credentials, creds, 0o600))
	return o
}

// user returns the JWT of a user that an account's key has signed.
func (o natsOperator) user(t *testing.T, user, by signer) string {
	t.Helper()
	claims := jwt.NewUserClaims(user.public)
	if by.public == o.signing.public {
		claims.IssuerAccount = o.ops.public
	}
	token, err := claims.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// answering starts the service. It answers with the sender that it sees.
func answering(t *testing.T, cfg Config) {
	t.Helper()
	cfg.TrustRequestInfo = true
	b, err := Dial(t.Context(), cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	serving := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	t.Cleanup(func() {
		stop()
		if err := <-serving; err != nil {
			t.Error(err)
		}
	})
	go func() {
		serving <- b.Serve(ctx, "1.0.0", []Endpoint{{Name: "dead.hold", Answer: func(_ context.Context, sender string, _ []byte) ([]byte, error) {
			return []byte(sender), nil
		}}})
	}()
	for ctx := lab.Patient(t); ; backoff.Sleep(ctx, 10*time.Millisecond) { // until it has started
		if _, err := b.Ask(ctx, "dead.hold", nil); err == nil {
			return
		} else if !errors.Is(err, ErrNoService) {
			t.Fatal(err)
		}
	}
}
