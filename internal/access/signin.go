package access

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// The paths of sign-in and sign-out. callbackPath must be registered at the provider.
const (
	signInPath   = "/sign-in"
	signOutPath  = "/sign-out"
	providerPath = signInPath + "/provider"
	callbackPath = signInPath + "/callback"
)

// MaxName is the length of the longest name of an account, in characters.
const MaxName = 64

// longName reports whether no account can have a name.
func longName(name string) bool { return utf8.RuneCountInString(name) > MaxName }

// ValidName reports whether an account can have a name: 1 to MaxName visible characters,
// without spaces at the ends.
func ValidName(name string) bool {
	return name != "" && !longName(name) && strings.TrimSpace(name) == name &&
		!strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsGraphic(r) })
}

func (a *Access) handleSignIn() {
	a.Handle("GET "+signInPath, Anyone, a.showSignIn)
	a.Handle("POST "+signOutPath, Anyone, a.signOut)
	if len(a.cfg.Accounts) > 0 {
		a.Handle("POST "+signInPath, Anyone, a.signInWithPassword)
	}
	if a.provider != nil {
		a.Handle("GET "+providerPath, Anyone, a.goToProvider)
		a.Handle("GET "+callbackPath, Anyone, a.comeFromProvider)
	}
}

func (a *Access) showSignIn(w http.ResponseWriter, r *http.Request, v Visit) {
	there := LocalPath(r.URL.Query().Get("return"))
	if v.SignedIn {
		http.Redirect(w, r, there, http.StatusSeeOther)
		return
	}
	view := a.signInView(v, there)
	if r.URL.Query().Has("signed-out") {
		view.Message = "You have signed out."
		if a.provider != nil {
			view.ProviderSignOut = a.provider.signOutURL()
		}
	}
	a.pages.SignIn(w, r, view)
}

func (a *Access) signInView(v Visit, there string) SignInView {
	accounts := len(a.cfg.Accounts) > 0 && len(a.people.Load().accounts) > 0 // Renew may have removed the last account
	view := SignInView{Status: http.StatusOK, Accounts: accounts, Return: there, Token: v.Token}
	if a.provider != nil {
		view.Provider = a.provider.name()
		view.ProviderPath = providerPath + "?" + url.Values{"return": {there}}.Encode()
	}
	return view
}

// signInWithPassword compares name and password. A wrong name and a wrong password get
// the same response after the same time.
func (a *Access) signInWithPassword(w http.ResponseWriter, r *http.Request, v Visit) {
	name, password := strings.TrimSpace(r.PostForm.Get("name")), r.PostForm.Get("password")
	view := a.signInView(v, LocalPath(r.PostForm.Get("return")))
	view.Name = shown(name, MaxName)
	fail := func(status int, message string) {
		view.Status, view.Message = status, message
		a.pages.SignIn(w, r, view)
	}
	if name == "" || password == "" || longName(name) || len(password) > MaxPassword {
		fail(http.StatusUnauthorized, wrongPassword)
		return
	}
	if wait := a.throttle.admit(name, v.User.Address); wait > 0 {
		a.tooMany(w, r, view, wait)
		return
	}
	accounts := a.people.Load().accounts
	account, fits, err := a.keeper.check(r.Context(), accounts, name, password)
	switch {
	case errors.Is(err, errBusy):
		w.Header().Set("Retry-After", "10")
		fail(http.StatusServiceUnavailable, "Too many sign-ins at the same time. Try again in a few seconds.")
		return
	case !fits:
		event := Event{Kind: SignInFailed, User: v.User, Way: byPassword, Reason: "no account has that name"}
		if account.Name == name {
			event.User.Name, event.Reason = name, "wrong password"
		}
		a.record(r.Context(), event)
		fail(http.StatusUnauthorized, wrongPassword)
		return
	}
	a.throttle.succeeded(name, v.User.Address)
	user := User{Name: account.Name, Subject: ofAccount + account.Name, Role: account.Role, Address: v.User.Address}
	if !a.beginSession(w, r, session{user: user, hash: account.Hash}, byPassword) {
		fail(http.StatusUnauthorized, wrongPassword)
		return
	}
	http.Redirect(w, r, view.Return, http.StatusSeeOther)
}

func (a *Access) tooMany(w http.ResponseWriter, r *http.Request, view SignInView, wait time.Duration) {
	seconds := int((wait + time.Second - 1) / time.Second)
	w.Header().Set("Retry-After", strconv.Itoa(seconds))
	view.Status, view.Message = http.StatusTooManyRequests, fmt.Sprintf("Too many attempts. Wait %s, then try again.", inWords(seconds))
	a.pages.SignIn(w, r, view)
}

const wrongPassword = "Name or password is wrong."

func inWords(seconds int) string {
	if seconds >= 120 {
		return strconv.Itoa((seconds+59)/60) + " minutes"
	}
	if seconds == 1 {
		return "a second"
	}
	return strconv.Itoa(seconds) + " seconds"
}

// beginSession signs a user in, and ends the browser's previous session. It returns
// false if accounts or roles were changed during the sign-in, so that the user would
// not get this session any more.
func (a *Access) beginSession(w http.ResponseWriter, r *http.Request, made session, way string) bool {
	made.browser = browserFamily(r.UserAgent())
	number := a.sessions.begin(made)
	if !a.stillGood(&made) { // after begin: Renew ends only sessions that exist
		a.sessions.end(number)
		return false
	}
	if old := a.cookie(r, sessionCookie); old != "" {
		a.sessions.end(old)
	}
	a.setCookie(w, sessionCookie, number, http.SameSiteStrictMode, 0)
	a.dropCookie(w, visitorCookie)
	a.record(r.Context(), Event{Kind: SignedIn, User: made.user, Way: way})
	return true
}

func (a *Access) signOut(w http.ResponseWriter, r *http.Request, v Visit) {
	if s := a.identify(r).session; s != nil {
		a.sessions.finish(s)
		a.record(r.Context(), Event{Kind: SignedOut, User: v.User, Way: s.way()})
	}
	a.dropCookie(w, sessionCookie)
	http.Redirect(w, r, signInPath+"?signed-out", http.StatusSeeOther)
}
