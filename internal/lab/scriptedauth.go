package lab

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
)

// ScramLies are what a relay does that does not know the password, or means ill.
type ScramLies struct {
	Iterations int    // 0: 4096
	Order      string // of the relay's messages: "rv5" is right, 5 being the 235; "-" is an empty challenge
	FalseProof bool
	Nothing    bool // the proof is that of one who knows nothing at all
}

// auth is the relay's side of AUTH.
func (c *conversation) auth(rest string) bool {
	if a, scripted := c.next(AtAuth); scripted {
		return c.perform(a, "")
	}
	if len("AUTH "+rest+"\r\n") > 512 {
		return c.say(RelayAct{Reply: "500 5.5.6 line too long"})
	}
	method, initial, _ := strings.Cut(rest, " ")
	method = strings.ToUpper(method)
	var user string
	var known, ok bool
	if initial == "" && (method == "PLAIN" || method == "XOAUTH2") {
		answer, more := c.challenge("")
		if !more {
			return false
		}
		initial = base64.StdEncoding.EncodeToString([]byte(answer))
		c.Mu.Lock()
		c.Prompted++
		c.Mu.Unlock()
	}
	switch method {
	case "PLAIN":
		parts := strings.Split(decoded(initial), "\x00")
		if len(parts) != 3 {
			return c.say(RelayAct{Reply: "501 5.5.2 not PLAIN"})
		}
		user, known, ok = parts[1], c.knows(parts[1], parts[2]), true
	case "LOGIN":
		if user, ok = c.prompt("Username:"); ok {
			var password string
			password, ok = c.prompt("Password:")
			known = c.knows(user, password)
		}
	case "CRAM-MD5":
		user, known, ok = c.cramMD5()
	case "XOAUTH2":
		user, known, ok = c.xoauth2(decoded(initial))
	case "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS":
		user, known, ok = c.scram(method)
	default:
		return c.say(RelayAct{Reply: "504 5.5.4 " + method + " is not known"})
	}
	switch {
	case !ok:
		return false
	case !known:
		return c.say(RelayAct{Reply: "535 5.7.8 wrong user or password"})
	}
	c.user = user
	return c.say(RelayAct{Reply: "235 2.7.0 welcome"})
}

// prompt is challenge with a text that means nothing to the client.
func (c *conversation) prompt(text string) (string, bool) {
	if c.Bare {
		text = ""
	}
	return c.challenge(text)
}

// challenge says 334 and returns the answer.
func (c *conversation) challenge(text string) (string, bool) {
	line := "334 " + base64.StdEncoding.EncodeToString([]byte(text)) + "\r\n"
	if c.Bare && text == "" {
		line = "334\r\n"
	}
	if _, err := io.WriteString(c.conn, line); err != nil {
		return "", false
	}
	line, ok := c.line()
	return decoded(line), ok
}

func (c *conversation) knows(user, password string) bool {
	known, ok := c.Users[user]
	return c.Users == nil || ok && known == password
}

func (c *conversation) cramMD5() (user string, known, ok bool) {
	const challenge = "<1896.697170952@postoffice.example.net>"
	answer, ok := c.challenge(challenge)
	user, digest, _ := strings.Cut(answer, " ")
	mac := hmac.New(md5.New, []byte(c.Users[user]))
	mac.Write([]byte(challenge))
	return user, c.Users[user] != "" && digest == hex.EncodeToString(mac.Sum(nil)), ok
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
	order, iterations := c.Lies.Order, c.Lies.Iterations
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
			if c.Users != nil && !good && !c.Lies.FalseProof && !c.Lies.Nothing {
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
	salted, err := pbkdf2.Key(sha256.New, c.Users[user], salt, iterations, sha256.Size)
	if err != nil {
		return "", false
	}
	if c.Lies.Nothing {
		return base64.StdEncoding.EncodeToString(mac(mac(nil, "Server Key"), "")), true
	}
	if c.Lies.FalseProof {
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
