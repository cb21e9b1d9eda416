package mailhost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"

	"github.com/certpost/certpost/internal/inputfile"
	"github.com/certpost/certpost/internal/legible"
	"github.com/certpost/certpost/internal/verdict"
)

// file is one file of a deployment.
type file struct {
	path     string // behind all symbolic links
	holdsKey bool
	variable string // for validate_command
	data     []byte // the new content
	sum      string // its SHA-256, hexadecimal
	former   bool   // the path had a file before
	mode     fs.FileMode
	uid, gid int                       // -1: as before, or as this process
	same     func(present []byte) bool // see Material
}

// The names beside a file.
func (f *file) new() string { return f.path + ".certpost-new" }
func (f *file) old() string { return f.path + ".certpost-old" }

// plan returns the files of a deployment, that of the leaf first, with paths resolved.
func plan(d Deployment, c *contents) ([]*file, error) {
	cert, err := resolve(d.CertPath)
	if err != nil {
		return nil, err
	}
	key, err := resolve(d.KeyPath)
	if err != nil {
		return nil, err
	}
	leafAndChain := c.leafPEM
	var chain *file
	if d.ChainPath == "" {
		leafAndChain = slices.Concat(c.leafPEM, c.chainPEM)
	} else {
		path, err := resolve(d.ChainPath)
		if err != nil {
			return nil, err
		}
		if path == cert || path == key {
			return nil, fail(verdict.DeployWrite, StepPaths, "chain_path %s leads to the same file as cert_path or key_path", legible.Clean(d.ChainPath, 300))
		}
		chain = &file{path: path, variable: "CERTPOST_NEW_CHAIN", data: c.chainPEM, mode: fs.FileMode(d.CertMode)}
	}
	var files []*file
	if c.file != nil {
		if cert != key || chain != nil {
			return nil, fail(verdict.TargetInvalid, StepPaths, "this payload is one file: leave out key_path and chain_path")
		}
		files = []*file{{path: cert, variable: "CERTPOST_NEW_CERT", data: bytes.Clone(c.file), mode: fs.FileMode(d.KeyMode), holdsKey: true, same: c.same}}
	} else if cert == key {
		files = []*file{{path: key, variable: "CERTPOST_NEW_CERT", data: slices.Concat(c.keyPEM, leafAndChain), mode: fs.FileMode(d.KeyMode), holdsKey: true}}
	} else {
		files = []*file{
			{path: cert, variable: "CERTPOST_NEW_CERT", data: leafAndChain, mode: fs.FileMode(d.CertMode)},
			{path: key, variable: "CERTPOST_NEW_KEY", data: bytes.Clone(c.keyPEM), mode: fs.FileMode(d.KeyMode), holdsKey: true},
		}
	}
	if chain != nil {
		files = append(files, chain)
	}
	for _, f := range files {
		f.sum = digestOf(f.data)
	}
	return files, nil
}

// ownAll sets the owners of all files. The files have to be locked.
func ownAll(d Deployment, files []*file) error {
	for _, f := range files {
		owner, group := d.Owner, d.Group
		if f.holdsKey {
			owner, group = d.KeyOwner, d.KeyGroup
		}
		if err := f.own(owner, group); err != nil {
			return err
		}
	}
	return nil
}

// own sets the numbers of the file's owner and group: those given, else those of the
// existing file.
func (f *file) own(owner, group string) error {
	f.uid, f.gid = -1, -1
	if info, err := os.Lstat(f.path); err == nil {
		f.uid, f.gid = ownerOf(info)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return writeFailure(StepPaths, err)
	}
	userID := func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	}
	groupID := func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	}
	if owner != "" && number(owner, userID, &f.uid) != nil {
		return fail(verdict.DeployWrite, StepPaths, "there is no user %q on this host: fix owner or key_owner", legible.Clean(owner, 64))
	}
	if group != "" && number(group, groupID, &f.gid) != nil {
		return fail(verdict.DeployWrite, StepPaths, "there is no group %q on this host: fix group or key_group", legible.Clean(group, 64))
	}
	return nil
}

// number sets id to that of a user or group, which is given by number or by name.
func number(name string, lookup func(string) (string, error), id *int) error {
	n, err := strconv.ParseUint(name, 10, 31)
	if err != nil {
		text, err := lookup(name)
		if err != nil {
			return err
		}
		if n, err = strconv.ParseUint(text, 10, 31); err != nil {
			return err
		}
	}
	*id = int(n)
	return nil
}

// current reports whether the file on disk is the new one already: bytes, mode and owner.
func (f *file) current() (bool, error) {
	info, err := os.Lstat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	uid, gid := ownerOf(info)
	if info.Mode().Perm() != f.mode || !owns(f.uid, uid) || !owns(f.gid, gid) {
		return false, nil
	}
	if f.same != nil {
		present, err := readFile(f.path)
		return err == nil && f.same(present), err
	}
	if info.Size() != int64(len(f.data)) {
		return false, nil
	}
	sum, err := digest(f.path)
	return err == nil && sum == f.sum, err
}

// owns reports whether the number of a user or group is the wanted one, or any will do.
func owns(want, got int) bool { return want < 0 || want == got }

// isNew reports whether the file on disk has the new content.
func (f *file) isNew() bool {
	sum, err := digest(f.path)
	return err == nil && sum == f.sum
}

// digest returns the SHA-256 of a file in hexadecimal.
func digest(path string) (string, error) {
	data, err := readFile(path)
	if err != nil {
		return "", err
	}
	defer clear(data)
	return digestOf(data), nil
}

// maxFile is the size of a file that may hold certificates, in bytes; a path may lead to
// anything.
const maxFile = 1 << 20

// readFile reads a regular file. It never waits, as opening a named pipe would, with the lock of the
// directory held.
func readFile(path string) ([]byte, error) {
	return inputfile.Read(path, maxFile)
}

func digestOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
