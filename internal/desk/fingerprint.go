package desk

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/certpost/certpost/internal/verdict"
)

// Fingerprint names a cause: what failed (code), where in the conversation (phase),
// with whom (lane), and how the relay put it (enhanced code). Twelve hexadecimal
// digits, the same in every version: they stand in addresses that people keep.
func Fingerprint(code verdict.Code, phase verdict.Phase, lane, enhancedCode string) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{"certpost cause", string(code), string(phase), lane, enhancedCode}, "\x00")))
	return hex.EncodeToString(sum[:6])
}
