package secrets

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/rs/zerolog"
)

// source reads one kind of reference. It reads at every call; what is cached is
// the Store's business.
type source interface {
	read(ctx context.Context, ref Ref) (Secret, error)
}

// local is the source of a reference to something other than Vault.
func local(f files, ref Ref) source {
	switch {
	case ref.Env != "":
		return environment{}
	case ref.File != "":
		return f
	case ref.Credential != "":
		return credentials{f}
	}
	return inline{}
}

// maxSecret is the largest secret and the largest answer of Vault we take, bytes.
const maxSecret = 1 << 20

// inline is a secret that stands in the configuration.
type inline struct{}

func (inline) read(_ context.Context, ref Ref) (Secret, error) {
	return Secret{Value: ref.Value}, nil
}

// environment reads the process's variables.
type environment struct{}

func (environment) read(_ context.Context, ref Ref) (Secret, error) {
	text, set := os.LookupEnv(ref.Env)
	switch {
	case !set:
		return Secret{}, ref.notFound("", "the environment variable is not set")
	case text == "":
		return Secret{}, ref.notFound("", "the environment variable is empty")
	}
	return Secret{Value: New([]byte(text))}, nil
}

// files reads files, at every use, so that a rotated one needs no restart.
type files struct {
	log    zerolog.Logger
	warned *sync.Map // paths whose mode has been warned about
}

func (f files) read(_ context.Context, ref Ref) (Secret, error) {
	return f.readFile(ref, ref.File)
}

func (f files) readFile(ref Ref, path string) (Secret, error) {
	// Looked at before it is opened: opening a FIFO would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return Secret{}, fileError(ref, err)
	}
	if !info.Mode().IsRegular() {
		return Secret{}, ref.notFound("", "it is not a regular file")
	}
	if info.Size() > maxSecret {
		return Secret{}, ref.notFound("", "the file is larger than 1 MiB: that is no secret")
	}
	file, err := os.Open(path)
	if err != nil {
		return Secret{}, fileError(ref, err)
	}
	defer file.Close()
	// Room for one byte more shows a file that grew since. The buffer is made once
	// because growing it would leave copies behind.
	buffer := make([]byte, info.Size()+1)
	defer clear(buffer)
	n, err := io.ReadFull(file, buffer)
	if err == nil {
		return Secret{}, ref.unavailable("", "the file grew while it was read")
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return Secret{}, fileError(ref, err)
	}
	content := buffer[:n]
	text := bytes.TrimSuffix(bytes.TrimSuffix(content, []byte("\n")), []byte("\r"))
	if len(text) == 0 {
		return Secret{}, ref.notFound("", "the file is empty")
	}
	f.warnAboutMode(ref, path, info.Mode())
	return Secret{Value: New(text), Version: info.ModTime().UTC().Format(time.RFC3339)}, nil
}

// othersRead is about Unix; on Windows the mode says nothing.
func othersRead(mode fs.FileMode) bool { return runtime.GOOS != "windows" && mode.Perm()&0o004 != 0 }

func (f files) warnAboutMode(ref Ref, path string, mode fs.FileMode) {
	if !othersRead(mode) {
		return
	}
	if _, again := f.warned.LoadOrStore(path, true); again {
		return
	}
	f.log.Warn().Stringer("secret", ref).Stringer("mode", mode.Perm()).Msg("every user of this machine can read the file of a secret; chmod o-r it")
}

// fileError keeps what kind of failure it was, and not the system's text.
func fileError(ref Ref, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return ref.notFound("", "there is no such file")
	case errors.Is(err, fs.ErrPermission):
		return ref.denied("let the user that Certpost runs as read it", "the file may not be read")
	}
	return ref.unavailable("", "the file cannot be read just now")
}

// credentials reads what systemd hands over with LoadCredential= and
// SetCredential=, see systemd.exec(5).
type credentials struct{ files files }

func (c credentials) read(_ context.Context, ref Ref) (Secret, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return Secret{}, ref.notFound("add LoadCredential="+printable(ref.Credential)+":PATH to the unit",
			"systemd handed over no credentials (CREDENTIALS_DIRECTORY is not set)")
	}
	return c.files.readFile(ref, filepath.Join(dir, ref.Credential))
}
