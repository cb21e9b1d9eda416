package secrets

import (
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

// source reads one kind of reference. It reads at every call and caches nothing.
type source interface {
	read(ctx context.Context, ref Ref) (Secret, error)
}

// local returns the source of a reference that is not in Vault.
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

// maxSecret is the size limit of a secret and of an answer of Vault, in bytes.
const maxSecret = 1 << 20

// inline is a secret in the configuration itself.
type inline struct{}

func (inline) read(_ context.Context, ref Ref) (Secret, error) {
	return Secret{Value: ref.Value}, nil
}

// environment reads the environment variables of the process.
type environment struct{}

func (environment) read(_ context.Context, ref Ref) (Secret, error) {
	text, set := os.LookupEnv(ref.Env)
	switch {
	case !set:
		return Secret{}, ref.notFound("", "the environment variable is not set")
	case len(trimmed([]byte(text))) == 0:
		return Secret{}, ref.notFound("", "the environment variable is empty")
	}
	return Secret{Value: New(trimmed([]byte(text)))}, nil
}

// files reads files at every use, so a rotated secret needs no restart.
type files struct {
	log    zerolog.Logger
	warned *sync.Map // paths whose mode has been warned about
}

func (f files) read(_ context.Context, ref Ref) (Secret, error) {
	return f.readFile(ref, ref.File)
}

func (f files) readFile(ref Ref, path string) (Secret, error) {
	// Stat before open: opening a FIFO would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return Secret{}, fileError(ref, err)
	}
	if !info.Mode().IsRegular() {
		return Secret{}, ref.notFound("", "it is not a regular file")
	}
	file, err := os.Open(path)
	if err != nil {
		return Secret{}, fileError(ref, err)
	}
	return f.readOpen(ref, path, file)
}

// readOpen reads an open file and closes it.
func (f files) readOpen(ref Ref, path string, file *os.File) (Secret, error) {
	defer file.Close()
	info, err := file.Stat() // of the open file: the one at its path may be another by now
	if err != nil {
		return Secret{}, fileError(ref, err)
	}
	if !info.Mode().IsRegular() {
		return Secret{}, ref.notFound("", "it is not a regular file")
	}
	if info.Size() > maxSecret {
		return Secret{}, ref.notFound("", "the file is larger than 1 MiB, too large for a secret")
	}
	// One byte more than the size detects a file that has grown since. The buffer is
	// allocated once, because growing it would leave copies of the secret in memory.
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
	text := trimmed(content)
	if len(text) == 0 {
		return Secret{}, ref.notFound("", "the file is empty")
	}
	f.warnAboutMode(ref, path, info.Mode())
	return Secret{Value: New(text), Version: info.ModTime().UTC().Format(time.RFC3339)}, nil
}

// othersRead reports whether all users may read the file; always false on Windows,
// where the mode does not say.
func othersRead(mode fs.FileMode) bool { return runtime.GOOS != "windows" && mode.Perm()&0o004 != 0 }

func (f files) warnAboutMode(ref Ref, path string, mode fs.FileMode) {
	if !othersRead(mode) {
		return
	}
	if _, again := f.warned.LoadOrStore(path, true); again {
		return
	}
	f.log.Warn().Stringer("secret", ref).Stringer("mode", mode.Perm()).Msg("every user of this machine can read the file of a secret; run chmod o-r on it")
}

// fileError returns the kind of failure without the system's text.
func fileError(ref Ref, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return ref.notFound("", "the file does not exist")
	case errors.Is(err, syscall.ENAMETOOLONG): // an address of an event, in recipient_keys_dir
		return ref.notFound("", "no file can have such a long name")
	case errors.Is(err, syscall.ELOOP):
		return ref.notFound("", "its symbolic links lead in a circle")
	case errors.Is(err, fs.ErrPermission):
		return ref.denied("give read permission to the user that Certpost runs as", "Certpost may not read the file")
	}
	return ref.unavailable("", "the file cannot be read at present")
}

// credentials reads systemd credentials (LoadCredential= and SetCredential=, see
// systemd.exec(5)).
type credentials struct{ files files }

func (c credentials) read(_ context.Context, ref Ref) (Secret, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return Secret{}, ref.notFound("add LoadCredential="+clean(ref.Credential)+":PATH to the unit",
			"systemd has passed no credentials (CREDENTIALS_DIRECTORY is not set)")
	}
	return c.files.readFile(ref, filepath.Join(dir, ref.Credential))
}
