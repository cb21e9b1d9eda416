package secrets

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/certpost/certpost/internal/lab"
)

const readSecret = `path "secret/data/*" { capabilities = ["read"] }`

// oneSecret starts a server with a secret to read, and a policy "reader" for it.
func oneSecret(t *testing.T, o *observer, opts ...lab.VaultOption) (*lab.VaultServer, Ref, string) {
	v := lab.Vault(t, opts...)
	secret := o.secret("read")
	v.Put(t, "secret/x", map[string]any{"k": secret})
	v.Policy(t, "reader", readSecret)
	return v, mustRef(t, "vault:secret/x#k"), secret
}

func inFile(t testing.TB, content string) Ref {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return Ref{File: path}
}

func TestAppRoleLogsInOnceForAll(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	role, secretID := v.AppRole(t, "", "reader")
	store := o.open(t, v, Auth{Method: "approle", RoleID: inFile(t, role+"\n"), SecretID: inFile(t, o.keep(secretID)+"\n")})
	var workers sync.WaitGroup
	for range 50 {
		workers.Go(func() { wantSecret(t, o, store.Uncached, ref, secret, "1") })
	}
	workers.Wait()
	if n := v.Requests(t)["update auth/approle/login"]; n != 1 {
		t.Errorf("%d logins", n)
	}
}

func TestAppRoleRefused(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	role, secretID := v.AppRole(t, "", "reader")
	file := inFile(t, o.secret("wrong"))
	store := o.open(t, v, Auth{Method: "approle", RoleID: Ref{Value: New([]byte(role))}, SecretID: file})
	wantError(t, o, store.Get, ref, ErrUnavailable, "the login to Vault failed", "auth/approle refuses", "secret id")
	// The next login waits: a thousand deliveries must not cause a thousand logins.
	for range 20 {
		wantError(t, o, store.Get, ref, ErrUnavailable, "auth/approle refuses", "next attempt in")
	}
	if n := v.Requests(t)["update auth/approle/login"]; n != 1 {
		t.Errorf("%d logins", n)
	}
	isError(t, o, store.Health(t.Context()), ErrUnavailable, "the login to Vault failed")
	if err := os.WriteFile(file.File, []byte(secretID), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a login with the corrected secret id", func() bool {
		got, err := store.Get(t.Context(), ref, nil)
		return err == nil && string(got.Value.Reveal()) == secret
	})
	if err := store.Health(t.Context()); o.said(err) != nil {
		t.Errorf("after the login: %v", err)
	}
	o.keep(secretID)
}

func TestAppRoleWithWrappedSecretID(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	role, _ := v.AppRole(t, "", "reader")
	wrap := func() string {
		return o.keep(v.Wrap(t, "60s", "POST", "auth/approle/role/reader/secret-id", nil))
	}
	file := inFile(t, wrap())
	auth := Auth{Method: "approle", RoleID: Ref{Value: New([]byte(role))}, SecretID: file, SecretIDWrapped: true}
	store := o.open(t, v, auth)
	wantSecret(t, o, store.Get, ref, secret, "1")

	// The wrapping token is used up, the secret id is not.
	v.Call(t, "PUT", "sys/leases/revoke-prefix/auth/approle", nil)
	wantSecret(t, o, store.Fresh, ref, secret, "1")
	if n := v.Requests(t)["update sys/wrapping/unwrap"]; n != 1 {
		t.Errorf("unwrapped %d times", n)
	}

	thief := o.open(t, v, auth)
	wantError(t, o, thief.Get, ref, ErrUnavailable, "the login to Vault failed", "used before", "an attacker may have")
	other := o.open(t, v, Auth{Method: "approle", RoleID: auth.RoleID, SecretIDWrapped: true,
		SecretID: inFile(t, o.keep(v.Wrap(t, "60s", "GET", "auth/approle/role/reader/role-id", nil)))})
	wantError(t, o, other.Get, ref, ErrUnavailable, "does not contain a secret id")

	// A new wrapping token in the file is used.
	v.Call(t, "PUT", "sys/leases/revoke-prefix/auth/approle", nil) // also revokes wrapped answers of that path
	if err := os.WriteFile(file.File, []byte(wrap()), 0o600); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, o, store.Fresh, ref, secret, "1")
	if n := v.Requests(t)["update sys/wrapping/unwrap"]; n != 4 {
		t.Errorf("unwrapped %d times in all", n)
	}
}

func TestUserpass(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	v.Auth(t, "userpass")
	password := o.secret("password")
	v.Call(t, "POST", "auth/userpass/users/certpost", map[string]any{"password": password, "token_policies": "reader"})
	user := func(name, password string) Auth {
		return Auth{Method: "userpass", Username: Ref{Value: New([]byte(name))}, Password: Ref{Value: New([]byte(password))}}
	}
	wantSecret(t, o, o.open(t, v, user("certpost", password)).Get, ref, secret, "1")
	wantError(t, o, o.open(t, v, user("certpost", o.secret("wrong"))).Get, ref, ErrUnavailable, "auth/userpass refuses", "check user name and password")
	wantError(t, o, o.open(t, v, user("../../sys", password)).Get, ref, ErrUnavailable, "not allowed in a Vault path")
	elsewhere := user("certpost", password)
	elsewhere.Mount = "nowhere"
	wantError(t, o, o.open(t, v, elsewhere).Get, ref, ErrUnavailable, "auth/nowhere")
}

// signer makes the JWTs of an issuer.
type signer struct{ key *ecdsa.PrivateKey }

func newSigner(t testing.TB) signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signer{key}
}

func (s signer) publicPEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// sign makes an ES256 token, RFC 7515.
func (s signer) sign(t testing.TB, claims map[string]any) string {
	t.Helper()
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	digest := sha256.Sum256([]byte(text))
	r, ss, err := ecdsa.Sign(rand.Reader, s.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	ss.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func TestJWT(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	v.Auth(t, "jwt")
	issuer := newSigner(t)
	v.Call(t, "POST", "auth/jwt/config", map[string]any{"jwt_validation_pubkeys": []string{issuer.publicPEM(t)}})
	v.Call(t, "POST", "auth/jwt/role/certpost", map[string]any{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": []string{"vault"}, "token_policies": "reader",
	})
	token := func(audience string) string {
		return o.keep(issuer.sign(t, map[string]any{"sub": "certpost", "aud": audience, "iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix()}))
	}
	v.Call(t, "POST", "auth/jwt/login", map[string]any{"role": "certpost", "jwt": token("vault")})
	wantSecret(t, o, o.open(t, v, Auth{Method: "jwt", Role: "certpost", JWT: Ref{Value: New([]byte(token("vault")))}}).Get, ref, secret, "1")
	wantSecret(t, o, o.open(t, v, Auth{Method: "jwt", Role: "certpost", JWTFile: inFile(t, token("vault")).File}).Get, ref, secret, "1")
	wantError(t, o, o.open(t, v, Auth{Method: "jwt", Role: "certpost", JWT: Ref{Value: New([]byte(token("other")))}}).Get, ref,
		ErrUnavailable, "auth/jwt refuses", "audience")
	wantError(t, o, o.open(t, v, Auth{Method: "jwt", Role: "certpost", JWTFile: filepath.Join(t.TempDir(), "none")}).Get, ref,
		ErrUnavailable, "the login to Vault failed", "the file does not exist")
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	cluster := newSigner(t)
	account := map[string]any{
		"iss": "kubernetes/serviceaccount", "kubernetes.io/serviceaccount/namespace": "mail", "kubernetes.io/serviceaccount/secret.name": "token",
		"kubernetes.io/serviceaccount/service-account.name": "certpost", "kubernetes.io/serviceaccount/service-account.uid": "77",
		"sub": "system:serviceaccount:mail:certpost",
	}
	jwt := o.keep(cluster.sign(t, account))
	// The API server that Vault asks to review the token.
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review struct {
			Spec struct {
				Token string `json:"token"`
			} `json:"spec"`
		}
		_ = json.NewDecoder(r.Body).Decode(&review)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": map[string]any{
				"authenticated": review.Spec.Token == jwt,
				"user":          map[string]any{"username": "system:serviceaccount:mail:certpost", "uid": "77"},
			},
		})
	}))
	t.Cleanup(api.Close)
	v.Auth(t, "kubernetes")
	v.Call(t, "POST", "auth/kubernetes/config", map[string]any{
		"kubernetes_host": api.URL, "pem_keys": []string{cluster.publicPEM(t)}, "token_reviewer_jwt": jwt, "disable_local_ca_jwt": true,
	})
	v.Call(t, "POST", "auth/kubernetes/role/certpost", map[string]any{
		"bound_service_account_names": []string{"certpost"}, "bound_service_account_namespaces": []string{"mail"}, "token_policies": "reader",
	})
	wantSecret(t, o, o.open(t, v, Auth{Method: "kubernetes", Role: "certpost", JWTFile: inFile(t, jwt).File}).Get, ref, secret, "1")
	wantError(t, o, o.open(t, v, Auth{Method: "kubernetes", Role: "other", JWTFile: inFile(t, jwt).File}).Get, ref,
		ErrUnavailable, "auth/kubernetes refuses", "service account")
}

// clientCertificate makes a self-signed certificate and writes it with its key.
func clientCertificate(t testing.TB, name string) (certFile, keyFile, certPEM string) {
	t.Helper()
	key := newSigner(t).key
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM = pemOf(der)
	return inFile(t, certPEM).File, inFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))).File, certPEM
}

func TestClientCertificate(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o, lab.VaultTLS())
	v.Auth(t, "cert")
	cert, key, text := clientCertificate(t, "certpost")
	v.Call(t, "POST", "auth/cert/certs/certpost", map[string]any{"certificate": text, "token_policies": "reader"})
	with := func(cert, key, role string) Config {
		return Config{Address: v.Address, TLS: TLS{CAFile: v.CAFile, CertFile: cert, KeyFile: key}, Auth: Auth{Method: "cert", Role: role}}
	}
	wantSecret(t, o, o.openWith(t, with(cert, key, "")).Get, ref, secret, "1")
	wantSecret(t, o, o.openWith(t, with(cert, key, "certpost")).Get, ref, secret, "1")
	strange, strangeKey, _ := clientCertificate(t, "stranger")
	_, _, other := clientCertificate(t, "other")
	v.Call(t, "POST", "auth/cert/certs/other", map[string]any{"certificate": other, "token_policies": "reader"})
	wantError(t, o, o.openWith(t, with(cert, key, "other")).Get, ref, ErrUnavailable, "auth/cert refuses")
	wantError(t, o, o.openWith(t, with(strange, strangeKey, "")).Get, ref, ErrUnavailable, "auth/cert refuses", "role trusts its CA")
}

func TestToken(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	file := inFile(t, o.keep(v.Token(t, "1h", "reader")))
	store := o.open(t, v, Auth{Token: file})
	wantSecret(t, o, store.Get, ref, secret, "1")

	// The token is revoked and the file gets another one: no restart is needed.
	old, _ := os.ReadFile(file.File)
	if err := os.WriteFile(file.File, []byte(o.keep(v.Token(t, "1h", "reader"))), 0o600); err != nil {
		t.Fatal(err)
	}
	v.Call(t, "POST", "auth/token/revoke", map[string]string{"token": string(old)})
	wantSecret(t, o, store.Fresh, ref, secret, "1")

	// The token is revoked and not replaced: that says nothing about any secret, so the
	// error is not ErrDenied.
	current, _ := os.ReadFile(file.File)
	v.Call(t, "POST", "auth/token/revoke", map[string]string{"token": string(current)})
	wantError(t, o, store.Fresh, ref, ErrUnavailable, "the login to Vault failed", "the token is wrong, expired or revoked")
	wantError(t, o, o.open(t, v, Auth{Token: Ref{Env: "CERTPOST_TEST_UNSET"}}).Get, ref, ErrUnavailable, "env:CERTPOST_TEST_UNSET", "not set")
}

// A token without the default policy may not look itself up.
func TestTokenThatMayNotLookAtItself(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	made := v.Call(t, "POST", "auth/token/create", map[string]any{"policies": []string{"reader"}, "no_default_policy": true})
	token := o.keep(made["auth"].(map[string]any)["client_token"].(string))
	store := o.open(t, v, asToken(token))
	wantSecret(t, o, store.Get, ref, secret, "1")
	wantError(t, o, store.Get, mustRef(t, "vault:cubbyhole/x#k"), ErrDenied)
	v.Call(t, "POST", "auth/token/revoke", map[string]string{"token": token})
	wantError(t, o, store.Fresh, ref, ErrUnavailable, "the token is wrong, expired or revoked")
}

func TestTokenFromWhereVaultKeepsIt(t *testing.T) {
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	home := t.TempDir()
	t.Setenv("HOME", home)
	t.Setenv("VAULT_ADDR", v.Address)
	t.Setenv("VAULT_TOKEN", "")
	wantError(t, o, o.openWith(t, Config{}).Get, ref, ErrUnavailable, "no token is configured", "VAULT_TOKEN")
	t.Setenv("VAULT_TOKEN", o.keep(v.Token(t, "1h", "reader")))
	wantSecret(t, o, o.openWith(t, Config{}).Get, ref, secret, "1")
	t.Setenv("VAULT_TOKEN", "")
	if err := os.WriteFile(filepath.Join(home, ".vault-token"), []byte(o.keep(v.Token(t, "1h", "reader"))), 0o600); err != nil {
		t.Fatal(err)
	}
	wantSecret(t, o, o.openWith(t, Config{}).Get, ref, secret, "1")
	// VAULT_WRAP_TTL is for interactive use; answers to Certpost must not be wrapped.
	t.Setenv("VAULT_WRAP_TTL", "60s")
	wantSecret(t, o, o.openWith(t, Config{}).Get, ref, secret, "1")
	t.Setenv("VAULT_CLIENT_TIMEOUT", "nonsense")
	if _, err := Open(Config{}, o.log()); o.said(err) == nil {
		t.Error("an invalid time-out is accepted")
	}
}

// A token with a lifetime of two seconds causes no failures: it is renewed up to its
// maximum lifetime and replaced before that ends.
//
// Fault: a token that has expired or was revoked. Result: renewed in time, or one new
// login.
func TestRenewalAndExpiry(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	v.Auth(t, "approle")
	v.Call(t, "POST", "auth/approle/role/short", map[string]any{"token_policies": "reader", "token_ttl": "2s", "token_max_ttl": "5s", "bind_secret_id": false,
		"token_bound_cidrs": []string{"127.0.0.1/32"}})
	role := v.Call(t, "GET", "auth/approle/role/short/role-id", nil)["data"].(map[string]any)["role_id"].(string)
	store := o.open(t, v, Auth{Method: "approle", RoleID: Ref{Value: New([]byte(role))}})
	eventually(t, "a third login", func() bool {
		wantSecret(t, o, store.Fresh, ref, secret, "1")
		return t.Failed() || v.Requests(t)["update auth/approle/login"] >= 3
	})
	counted := v.Requests(t)
	if counted["update auth/token/renew-self"] < 2 {
		t.Errorf("%d renewals", counted["update auth/token/renew-self"])
	}
	if !o.logged("renewed the Vault token") {
		t.Error("no renewal is logged")
	}
}

// Fault: a token that has expired or was revoked. Result: or one new login.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	store := o.open(t, v, o.asAppRole(t, v, "1h", readSecret))
	for range 5 {
		wantSecret(t, o, store.Fresh, ref, secret, "1")
		v.Call(t, "PUT", "sys/leases/revoke-prefix/auth/approle", nil)
		var workers sync.WaitGroup
		for range 20 {
			workers.Go(func() { wantSecret(t, o, store.Uncached, ref, secret, "1") })
		}
		workers.Wait()
	}
	if n := v.Requests(t)["update auth/approle/login"]; n != 6 {
		t.Errorf("%d logins for six tokens", n)
	}
}

func TestCloseGivesTheTokenBack(t *testing.T) {
	t.Parallel()
	o := observe(t)
	v, ref, secret := oneSecret(t, o)
	store := o.open(t, v, o.asAppRole(t, v, "1h", readSecret))
	wantSecret(t, o, store.Get, ref, secret, "1")
	own := v.Token(t, "1h", "reader")
	borrowed := o.open(t, v, asToken(o.keep(own)))
	wantSecret(t, o, borrowed.Get, ref, secret, "1")
	store.Close()
	borrowed.Close()
	if n := v.Requests(t)["update auth/token/revoke-self"]; n != 1 {
		t.Errorf("%d tokens revoked", n)
	}
	wantError(t, o, store.Get, ref, ErrUnavailable)
	v.Call(t, "POST", "auth/token/lookup", map[string]string{"token": own})
}

func pemOf(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
