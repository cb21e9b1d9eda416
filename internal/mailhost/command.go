package mailhost

import (
	"context"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/certpost/certpost/internal/legible"
)

// Command is a program and its arguments. It is never given to a shell.
type Command []string

// UnmarshalYAML reads one text, which ParseCommand splits. The configuration's decoder reads a
// list of words by itself.
func (c *Command) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if err := unmarshal(&text); err != nil {
		return errors.New("want a command, or a list of its words")
	}
	words, err := ParseCommand(text)
	*c = words
	return err
}

// ParseCommand splits a text as a POSIX shell splits it into words: at blanks outside of
// quotes, with '...', "..." and the backslash. What a shell would do beyond that (variables,
// pipes, globs) is an error, because here it would not happen.
func ParseCommand(text string) (Command, error) {
	var words Command
	var word strings.Builder
	inWord, quote := false, byte(0)
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case quote != '\'' && c == '\\':
			if i++; i == len(text) {
				return nil, errors.New("the command ends with a backslash")
			}
			inWord = true
			if quote == '"' && !strings.ContainsRune("\\\"$`", rune(text[i])) {
				word.WriteByte('\\')
			}
			word.WriteByte(text[i])
		case c == quote:
			quote = 0
		case quote == '\'' || quote == '"' && c != '$' && c != '`':
			word.WriteByte(c)
		case quote == 0 && (c == '\'' || c == '"'):
			quote, inWord = c, true
		case c == ' ' || c == '\t':
			if inWord {
				words, inWord = append(words, word.String()), false
				word.Reset()
			}
		case strings.IndexByte("|&;<>()$`*?[\n\r", c) >= 0 || !inWord && (c == '#' || c == '~'):
			return nil, fmt.Errorf("the command has %q, which only a shell understands, and Certpost uses none: quote it, or put the command into a script", c)
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("the command has a %c that is not closed", quote)
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// String returns the command as one line, for messages.
func (c Command) String() string { return legible.Clean(strings.Join(c, " "), 200) }

const (
	// killDelay is how long a command's output may stay open after its end: a daemon that it
	// has started may hold it open for ever.
	killDelay = 2 * time.Second
	// maxOutput is how much of a command's output an error has, in bytes of its end.
	maxOutput = 600
)

// searchPath is where commands without a slash are found, whatever the environment of this
// process says: a service's often lacks the sbin directories.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// run runs a command to its end, at most for limit; then its process group is killed. The
// command gets only the environment given, because that of this process may have secrets.
// The error has the exit code and the end of the output, unless that quotes a secret.
func (c Command) run(ctx context.Context, limit time.Duration, env []string, secrets ...[]byte) error {
	_, err := c.output(ctx, limit, env, secrets...)
	return err
}

// output is run, and returns what the command has written.
func (c Command) output(ctx context.Context, limit time.Duration, env []string, secrets ...[]byte) (string, error) {
	program, err := findProgram(c[0])
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var out lastBytes
	cmd := exec.CommandContext(ctx, program, c[1:]...)
	cmd.Args[0] = c[0]
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + searchPath, "LC_ALL=C"}, env...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = killDelay
	ownGroup(cmd)
	err = cmd.Run()
	switch exit := (*exec.ExitError)(nil); {
	case err == nil || errors.Is(err, exec.ErrWaitDelay) && ctx.Err() == nil:
		return string(out.data), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("`%s` did not end within %v and was killed%s", c, limit, out.quoted(secrets))
	case errors.As(err, &exit):
		return "", fmt.Errorf("`%s` failed: %v%s", c, exit.ProcessState, out.quoted(secrets))
	default:
		return "", fmt.Errorf("`%s` could not be started: %w", c, errors.Unwrap(err))
	}
}

// findProgram returns the path of a program that this process may run.
func findProgram(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, checkProgram(name)
	}
	if !strings.Contains(name, "/") {
		for dir := range strings.SplitSeq(searchPath, ":") {
			path := filepath.Join(dir, name)
			if checkProgram(path) == nil {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("the program %q was not found in %s; give its absolute path", legible.Clean(name, 100), searchPath)
}

// checkProgram returns why a path is no program; nil if it is one.
func checkProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the program %q does not exist on this host", legible.Clean(path, 300))
	case err != nil:
		return fmt.Errorf("the program %q cannot be looked at: %w", legible.Clean(path, 300), errors.Unwrap(err))
	case !info.Mode().IsRegular():
		return fmt.Errorf("%q is no program, but %s", legible.Clean(path, 300), kindOf(info))
	case info.Mode()&0o111 == 0 || !mayRun(path):
		return fmt.Errorf("the program %q is not executable for Certpost's user: chmod +x it, or correct the command", legible.Clean(path, 300))
	}
	return nil
}

func kindOf(info fs.FileInfo) string {
	if info.IsDir() {
		return "a directory"
	}
	return "a special file"
}

// lastBytes keeps the end of what is written to it.
type lastBytes struct{ data []byte }

func (b *lastBytes) Write(p []byte) (int, error) {
	const keep = 16 << 10
	b.data = append(b.data, p...)
	if len(b.data) > 2*keep {
		b.data = append(b.data[:0], b.data[len(b.data)-keep:]...)
	}
	return len(p), nil
}

// quoted returns the output as the end of an error text.
func (b *lastBytes) quoted(secrets [][]byte) string {
	text := strings.TrimSpace(string(b.data))
	if text == "" {
		return ", without any output; read the log of the program that it controls"
	}
	if quotesKey(text, secrets) {
		return "; its output is left out, because it quotes the private key"
	}
	return ": " + legible.Clean(text[max(0, len(text)-maxOutput):], maxOutput)
}

// quotesKey reports whether a text has a part of a private key, in PEM or hexadecimal with
// or without colons. It rather reports one too many: the public half counts as well.
func quotesKey(text string, keys [][]byte) bool {
	if strings.Contains(text, "PRIVATE KEY") {
		return true
	}
	squeezed := strings.Map(func(r rune) rune {
		if r == ':' || r == ' ' || r == '\n' || r == '\r' || r == '\t' {
			return -1
		}
		return r
	}, text)
	lower := strings.ToLower(squeezed)
	const window = 8 // bytes of the key in a row
	for _, key := range keys {
		for block, rest := pem.Decode(key); block != nil; block, rest = pem.Decode(rest) {
			if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
				continue
			}
			for i := 0; i+window <= len(block.Bytes); i++ {
				if strings.Contains(lower, hex.EncodeToString(block.Bytes[i:i+window])) {
					return true
				}
			}
			lines := strings.Split(string(pem.EncodeToMemory(block)), "\n")
			for _, line := range lines[1:] {
				for ; len(line) >= 2*window && !strings.HasPrefix(line, "-"); line = line[window:] {
					if strings.Contains(squeezed, line[:2*window]) {
						return true
					}
				}
			}
		}
	}
	return false
}
