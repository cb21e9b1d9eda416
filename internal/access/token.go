package access

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
)

// TokenField is the name of the field that every form has: Visit.Token.
const TokenField = "token"

// token is what a form of one browser has to carry: a MAC over the number in its
// cookie, which no other site can read. It looks different each time, so that
// nothing can be learned about it from the length of compressed pages (BREACH).
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

// The cookies: that of a session, that of a browser without one (its forms have
// tokens too), and that of somebody who has gone to the provider to sign in.
const (
	sessionCookie  = "certpost-session"
	visitorCookie  = "certpost-visitor"
	providerCookie = "certpost-sign-in"
)

// setCookie sets one for this host alone; __Host- has browsers insist on that. A
// Lax one is sent when another site leads here, which the way back from the
// provider is.
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

// cookie is the value of one of our cookies, "" if it is not there.
func (a *Access) cookie(r *http.Request, name string) string {
	c, err := r.Cookie(a.cookieName(name))
	if err != nil {
		return ""
	}
	return c.Value
}

// isNumber says whether text has the form of randomText's.
func isNumber(text string) bool {
	b, err := base64.RawURLEncoding.DecodeString(text)
	return err == nil && len(b) == 32
}
