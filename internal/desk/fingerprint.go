package desk

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// Fingerprint identifies a cause: what failed (code), where in the conversation (phase),
// with which relay (lane), and the enhanced status code. It is 12 hexadecimal digits, the
// same in every version, because it is part of addresses that people bookmark.
func Fingerprint(code verdict.Code, phase verdict.Phase, lane, enhancedCode string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{"certpost cause", string(code), string(phase), lane, enhancedCode}, "\x00")))
	return hex.EncodeToString(sum[:6])
}
