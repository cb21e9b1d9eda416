package legible

import (
	"fmt"
	"strings"
)

// ShellWord quotes a word for a shell unless it needs no quotes. A word with invisible
// characters, or characters that change how others are displayed, is written with
// escapes ($'...', POSIX.1-2024), so that the copied text is what the page showed.
func ShellWord(word string) string {
	if strings.IndexFunc(word, Hidden) >= 0 {
		return escapedWord(word)
	}
	bare := word != "" && strings.IndexFunc(word, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=@%+,", r)
	}) < 0
	if bare {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// escapedWord writes every byte that is not printable ASCII in octal.
func escapedWord(word string) string {
	var b strings.Builder
	b.WriteString("$'")
	for i := range len(word) {
		switch c := word[i]; {
		case c == '\'' || c == '\\':
			b.WriteString(`\` + string(c))
		case c == 0: // an argument cannot hold a NUL byte
		case c < ' ' || c > '~':
			fmt.Fprintf(&b, `\%03o`, c)
		default:
			b.WriteByte(c)
		}
	}
	return b.String() + "'"
}
