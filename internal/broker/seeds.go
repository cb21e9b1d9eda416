package broker

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
)

// Role is what a client of the embedded server may do. A client proves its role with the
// NKey seed of the role (docs.nats.io, "NKeys"): whoever can read the seed's file has the role.
type Role string

// The roles. Config.User, if set, is an administrator too.
const (
	// Administrator may do everything. Commands need this role, except `publish`.
	Administrator Role = "admin"
	// Publisher may publish events and read the acknowledgements, nothing else.
	Publisher Role = "publisher"
)

// SeedFile is the file in a data directory with the seed of a role. It is made at the first
// start of the embedded server.
func SeedFile(dataDir string, r Role) string {
	return filepath.Join(dataDir, natsDir, string(r)+".nk")
}

// natsDir is the directory in the data directory that holds the embedded server's store and
// the seeds.
const natsDir = "nats"

// seeds are the keys of the roles.
type seeds map[Role]nkeys.KeyPair

// openSeeds reads the seeds in a data directory and makes those that do not exist. Others on
// the machine must not read them: directory and files lose such permissions.
func openSeeds(dataDir string, log zerolog.Logger) (seeds, error) {
	dir := filepath.Join(dataDir, natsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data_dir %s: %w", dataDir, err)
	}
	if info, err := os.Stat(dataDir); err == nil && runtime.GOOS != "windows" && info.Mode()&(0o002|fs.ModeSticky) == 0o002 {
		log.Warn().Str("data_dir", dataDir).Msg("every user of this machine can replace the files in data_dir, the seeds and the audit's key included; run chmod o-w on it")
	}
	if _, err := keepPrivate(dir, 0o700); err != nil {
		// A volume that is mounted here may belong to another user. The files are what counts.
		log.Warn().Err(err).Str("directory", dir).Msg("other users may enter the directory with the seeds of the embedded NATS, and it cannot be changed; make it 0700")
	}
	s := seeds{}
	for _, r := range []Role{Administrator, Publisher} {
		path := SeedFile(dataDir, r)
		if owner := ForeignOwner(path, dataDir); owner != "" {
			return nil, fmt.Errorf("seed %s: it belongs to user %s, who may have put it there to log in with it: remove it, and a new one is made; or, if it is yours, make the user who runs Certpost its owner", path, owner)
		}
		key, err := readSeed(path)
		if errors.Is(err, fs.ErrNotExist) {
			if key, err = makeSeed(path); err == nil {
				log.Info().Str("file", path).Str("role", string(r)).Msg("made a seed for clients of the embedded NATS")
			}
		}
		if err != nil {
			return nil, err
		}
		changed, err := keepPrivate(path, 0o600)
		if err != nil {
			return nil, fmt.Errorf("seed %s: other users can read it, and its mode cannot be changed to 0600: %w", path, err)
		}
		if changed {
			log.Warn().Str("file", path).Msg("other users could read this seed of the embedded NATS; its mode is 0600 now. If one may have read it, remove the file and restart: a new seed is made, and the old one is void")
		}
		s[r] = key
	}
	if s.public(Administrator) == s.public(Publisher) {
		return nil, fmt.Errorf("%s and %s have the same seed, so publishers would be administrators: remove %[2]s and start again, which makes a new one",
			SeedFile(dataDir, Administrator), SeedFile(dataDir, Publisher))
	}
	return s, nil
}

// public is a role's public key: the name of its user in NATS.
func (s seeds) public(r Role) string {
	key, err := s[r].PublicKey()
	if err != nil {
		return "" // not of a key that readSeed returned
	}
	return key
}

// login is the option to log in with a role.
func (s seeds) login(r Role) nats.Option { return nats.Nkey(s.public(r), s[r].Sign) }

// keepPrivate removes all permissions of group and others. It reports whether there were any.
func keepPrivate(path string, mode fs.FileMode) (changed bool, err error) {
	info, err := os.Stat(path)
	if err != nil || runtime.GOOS == "windows" || info.Mode().Perm()&0o077 == 0 {
		return false, err
	}
	return true, os.Chmod(path, mode)
}

// readSeed reads a file with the seed of a user. Its errors never quote the file.
func readSeed(path string) (nkeys.KeyPair, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("seed %w", err)
	}
	defer clear(text)
	key, err := nkeys.ParseDecoratedNKey(text)
	if err == nil {
		var public string
		if public, err = key.PublicKey(); err == nil && nkeys.IsValidPublicUserKey(public) {
			return key, nil
		}
	}
	return nil, fmt.Errorf("seed %s: it does not contain the NKey seed of a user (SU...): restore the file, or remove it and restart `certpost run`, which makes a new one", path)
}

// makeSeed writes a new seed. The file is complete or does not exist, also after a crash; the
// lock on the data directory keeps other processes away.
func makeSeed(path string) (nkeys.KeyPair, error) {
	key, err := nkeys.CreateUser()
	if err != nil {
		return nil, fmt.Errorf("seed %s: %w", path, err)
	}
	defer key.Wipe()
	text, err := key.Seed()
	if err != nil {
		return nil, fmt.Errorf("seed %s: %w", path, err)
	}
	if err := WritePrivate(path, text); err != nil {
		return nil, fmt.Errorf("seed %w", err)
	}
	return readSeed(path)
}

// WritePrivate writes a file that only this user may read, complete or not at all. What stands at the name of its
// unfinished copy, a link of another user perhaps, is not written to.
func WritePrivate(path string, text []byte) error {
	half := path + ".new"
	if err := os.Remove(half); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a start that was killed
		return err
	}
	f, err := os.OpenFile(half, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(half, path)
}

// seedLogin is how a command logs in to the embedded server: with the seed of the first of
// the roles that it can read, Administrator if there are none. It returns the file, for errors. On a server
// that is open to all it needs none, and may return no option.
func (c Config) seedLogin(roles []Role) (login nats.Option, file string, err error) {
	if len(roles) == 0 {
		roles = []Role{Administrator}
	}
	var why error // the first role's
	for _, r := range roles {
		path := SeedFile(c.DataDir, r)
		key, err := readSeed(path)
		if err == nil {
			return seeds{r: key}.login(r), path, nil
		}
		why = cmp.Or(why, explainSeed(c.DataDir, r, err))
	}
	if c.Anonymous {
		return nil, "", nil
	}
	return nil, "", why
}

// explainSeed says why a command has no seed, and what to do.
func explainSeed(dataDir string, r Role, err error) error {
	path := SeedFile(dataDir, r)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no seed to log in to the embedded NATS: %s does not exist: `certpost run` makes it at its first start; check that data_dir (%s, relative paths start at the working directory) is that of the running certpost, or set nats.nkey_file or nats.url", path, dataDir)
	case errors.Is(err, fs.ErrPermission):
		run := "run this command as the user who runs `certpost run`"
		if owner := ownerOf(path); owner != "" {
			run = fmt.Sprintf("run this command as user %s, who owns it (sudo -u %[1]s ...)", owner)
		}
		copied := ""
		if r == Publisher {
			copied = ", or have a copy of it that you can read and set nats.nkey_file"
		}
		return fmt.Errorf("the seed %s to log in to the embedded NATS cannot be read (permission denied): %s%s", path, run, copied)
	}
	return err
}
