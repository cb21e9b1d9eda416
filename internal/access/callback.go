package access

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/rs/zerolog"
	"golang.org/x/oauth2"
)

// signInTime is how long a sign-in at the provider may take.
const signInTime = 10 * time.Minute

// sealed is the state of a sign-in at the provider. The browser keeps it, encrypted in
// a cookie, so that sign-ins that are started and never finished use no memory.
type sealed struct {
	State, Nonce, Verifier string
	Return                 string
	Until                  time.Time
	Old                    []byte `json:",omitempty"` // key of the session to end: its Strict cookie is not sent with the callback
}

// sealer encrypts with a key derived from the secret of this process.
type sealer struct{ aead cipher.AEAD }

func newSealer(secret [32]byte) (*sealer, error) {
	mac := hmac.New(sha256.New, secret[:])
	mac.Write([]byte("sign-in at the provider"))
	block, err := aes.NewCipher(mac.Sum(nil))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	return &sealer{aead}, err
}

func (s *sealer) seal(v sealed) (string, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aead.Seal(nil, nil, text, nil)), nil
}

func (s *sealer) open(text string) (v sealed, ok bool) {
	box, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return v, false
	}
	plain, err := s.aead.Open(nil, nil, box, nil)
	if err != nil || json.Unmarshal(plain, &v) != nil || time.Now().After(v.Until) {
		return sealed{}, false
	}
	return v, true
}

// goToProvider redirects the browser to the provider: code flow, PKCE (S256), state and
// nonce.
func (a *Access) goToProvider(w http.ResponseWriter, r *http.Request, v Visit) {
	m, err := a.provider.discover(r.Context())
	if err != nil {
		a.providerFailed(w, r, v, http.StatusBadGateway, &problem{"The provider cannot be reached. Try again in a moment", err})
		return
	}
	client, err := a.provider.oauth(r.Context(), m, false)
	if err != nil {
		a.providerFailed(w, r, v, http.StatusBadGateway, err)
		return
	}
	sent := sealed{
		State: randomText(), Nonce: randomText(), Verifier: oauth2.GenerateVerifier(),
		Return: LocalPath(r.URL.Query().Get("return")), Until: time.Now().Add(signInTime),
	}
	if s := a.identify(r).session; s != nil {
		sent.Old = s.key[:]
	}
	cookie, err := a.provider.sealer.seal(sent)
	if err != nil {
		a.providerFailed(w, r, v, http.StatusInternalServerError, err)
		return
	}
	a.setCookie(w, providerCookie, cookie, http.SameSiteLaxMode, int(signInTime/time.Second))
	http.Redirect(w, r, client.AuthCodeURL(sent.State, oidc.Nonce(sent.Nonce), oauth2.S256ChallengeOption(sent.Verifier)), http.StatusSeeOther)
}

// comeFromProvider handles the provider's redirect back.
func (a *Access) comeFromProvider(w http.ResponseWriter, r *http.Request, v Visit) {
	sent, ok := a.provider.sealer.open(a.cookie(r, providerCookie))
	a.setCookie(w, providerCookie, "", http.SameSiteLaxMode, -1)
	answer := r.URL.Query()
	if !ok || subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(sent.State)) != 1 {
		a.providerFailed(w, r, v, http.StatusBadRequest, &problem{"This sign-in was not started in this browser, or it has expired. Try again", nil})
		return
	}
	// Invented codes must not cause requests to the provider, or audit records, faster
	// than passwords can be guessed.
	if wait := a.throttle.admit("", v.User.Address); wait > 0 {
		a.tooMany(w, r, a.signInView(v, sent.Return), wait)
		return
	}
	if !a.provider.take(sent.State, sent.Until) {
		a.providerFailed(w, r, v, http.StatusBadRequest, &problem{"This sign-in was already used. Try again", nil})
		return
	}
	who, err := a.welcome(r.Context(), answer.Get, sent)
	if err != nil {
		a.provider.release(sent.State)
		a.record(r.Context(), Event{Kind: SignInFailed, User: v.User, Way: byProvider, Reason: err.Error()})
		a.providerFailed(w, r, v, http.StatusUnauthorized, err)
		return
	}
	a.throttle.succeeded("", v.User.Address)
	user := User{Name: who.name, Subject: who.subject, Role: a.people.Load().roles.of(who.values), Address: v.User.Address}
	if user.Role == Anyone {
		a.record(r.Context(), Event{Kind: SignInFailed, User: user, Way: byProvider, Reason: "no role: claim " + a.provider.cfg.RoleClaim + " gives none"})
		a.pages.Refused(w, r, http.StatusForbidden, "You have no role here",
			user.Name+" signed in, but the claim "+a.provider.cfg.RoleClaim+" gives no role. The provider sent these claims: "+
				strings.Join(who.claims, ", ")+". The administrator of Certpost can assign a role under http.sign_in.oidc.roles.")
		return
	}
	if len(sent.Old) == len(sessionKey{}) {
		a.sessions.finishKey(sessionKey(sent.Old))
	}
	if !a.beginSession(w, r, session{user: user, values: who.values}, byProvider) {
		a.providerFailed(w, r, v, http.StatusConflict, &problem{"The roles changed during the sign-in. Try again", nil})
		return
	}
	bounce(w, r, sent.Return)
}

// welcome reads the provider's response and identifies the user.
func (a *Access) welcome(ctx context.Context, answer func(string) string, sent sealed) (*identity, error) {
	m, err := a.provider.discover(ctx)
	if err != nil {
		return nil, &problem{"The provider cannot be reached. Try again in a moment", err}
	}
	// RFC 9207: an answer from another provider (mix-up) is refused.
	if issuer := answer("iss"); issuer != a.provider.cfg.Issuer && (issuer != "" || m.SaysIssuer) {
		return nil, &problem{"The answer does not name the configured provider (iss)", nil}
	}
	if code := answer("error"); code != "" {
		return nil, &problem{"The provider did not sign you in (" + errorCode(code) + ")", nil}
	}
	if answer("code") == "" {
		return nil, &problem{"The provider sent no authorization code", nil}
	}
	return a.provider.redeem(ctx, m, answer("code"), sent)
}

// providerFailed shows the sign-in page again, with the reason; the log has the
// details. It records nothing in the audit: anyone can request these pages at any rate.
func (a *Access) providerFailed(w http.ResponseWriter, r *http.Request, v Visit, status int, err error) {
	view := a.signInView(v, LocalPath(r.URL.Query().Get("return")))
	view.Status, view.Message = status, "The sign-in failed. The log has the reason."
	var known *problem
	if errors.As(err, &known) {
		view.Message = known.text + "."
	}
	level := zerolog.WarnLevel
	if status == http.StatusBadRequest { // anyone can cause this at any rate
		level = zerolog.DebugLevel
	}
	a.cfg.Log.WithLevel(level).Str("address", v.User.Address).Str("reason", shown(err.Error(), maxReason)).Msg("sign-in at the provider failed")
	a.pages.SignIn(w, r, view)
}
