package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
)

// TokenField is the name of the form field that every form has, with Visit.Token.
const TokenField = "token"

// token is the value that a browser's forms must carry: a MAC over the number in its
// cookie, which no other site can read. It is masked with new random bytes each time,
// so that the length of compressed pages does not reveal it (BREACH).
func (a *Access) token(number string) string {
	mac := a.mac(number)
	masked := make([]byte, 2*len(mac))
	_, _ = rand.Read(masked[:len(mac)]) // never fails
	subtle.XORBytes(masked[len(mac):], mac, masked[:len(mac)])
	return base64.RawURLEncoding.EncodeToString(masked)
}

// fits says whether a token belongs to the browser with this number.
func (a *Access) fits(token, number string) bool {
	masked, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(masked) != 2*sha256.Size || number == "" {
		return false
	}
	subtle.XORBytes(masked[sha256.Size:], masked[sha256.Size:], masked[:sha256.Size])
	return hmac.Equal(masked[sha256.Size:], a.mac(number))
}

func (a *Access) mac(number string) []byte {
	mac := hmac.New(sha256.New, a.secret[:])
	mac.Write([]byte("form " + number))
	return mac.Sum(nil)
}

// The cookies: of a session, of a browser without a session (its forms have tokens
// too), and of a browser that was sent to the provider to sign in.
const (
	sessionCookie  = "certpost-session"
	visitorCookie  = "certpost-visitor"
	providerCookie = "certpost-sign-in"
)

// setCookie sets a cookie for this host only; the __Host- prefix makes browsers enforce
// that. A Lax cookie is also sent when another site leads here, as the provider's
// redirect does.
func (a *Access) setCookie(w http.ResponseWriter, name, value string, site http.SameSite, seconds int) {
	http.SetCookie(w, &http.Cookie{
		Name: a.cookieName(name), Value: value, Path: "/", MaxAge: seconds,
		Secure: a.secure, HttpOnly: true, SameSite: site,
	})
}

func (a *Access) dropCookie(w http.ResponseWriter, name string) {
	a.setCookie(w, name, "", http.SameSiteStrictMode, -1)
}

func (a *Access) cookieName(name string) string {
	if a.secure {
		return "__Host-" + name
	}
	return name
}

// cookie is the value of a cookie of the dashboard, "" if the request has none.
func (a *Access) cookie(r *http.Request, name string) string {
	c, err := r.Cookie(a.cookieName(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// isNumber says whether text has the form of randomText's result.
func isNumber(text string) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	return err == nil && len(b) == 32
}
