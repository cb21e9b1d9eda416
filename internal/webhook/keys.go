package webhook

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// MinKey is the length of the shortest key that proves a sender, in bytes: guesses are not throttled.
const MinKey = 16

// prefix is what secrets of Standard Webhooks begin with; base64 follows.
const prefix = "whsec_"

// StandardKey returns the key in a secret of Standard Webhooks: whsec_ and base64, else any text as it is. The error says
// what is wrong with the secret, and quotes nothing of it.
func StandardKey(secret string) ([]byte, error) {
	encoded, ok := strings.CutPrefix(secret, prefix)
	if !ok {
		return TextKey(secret)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("begins with whsec_, but what follows is not base64")
	}
	return longEnough(key)
}

// Base64Key returns the key in a secret that is base64, such as those of step-ca.
func Base64Key(secret string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(secret)
	if err != nil {
		return nil, errors.New("is not base64")
	}
	return longEnough(key)
}

// TextKey returns a secret that is used as it is.
func TextKey(secret string) ([]byte, error) { return longEnough([]byte(secret)) }

func longEnough(key []byte) ([]byte, error) {
	if len(key) < MinKey {
		return nil, fmt.Errorf("is too short: its key has %d bytes, want at least %d", len(key), MinKey)
	}
	return key, nil
}
