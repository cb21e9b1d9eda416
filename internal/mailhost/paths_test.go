//go:build unix

package mailhost

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// tree makes what a list describes: "dir/ 0755", "file 0644", "link -> target",
// each optionally followed by the number of its owner.
func tree(t *testing.T, entries ...string) string {
	t.Helper()
	root := privateDir(t)
	for _, e := range entries {
		fields := strings.Fields(e)
		path := filepath.Join(root, fields[0])
		var err error
		switch {
		case fields[1] == "->":
			target := fields[2]
			if strings.HasPrefix(target, "/") {
				target = root + target
			}
			err = os.Symlink(target, path)
		case fields[1] == "fifo":
			err = syscall.Mkfifo(path, 0o600)
		case strings.HasSuffix(fields[0], "/"):
			if err = os.Mkdir(path, 0o700); err == nil {
				err = os.Chmod(path, mode(fields[1]))
			}
		default:
			if err = os.WriteFile(path, nil, 0o600); err == nil {
				err = os.Chmod(path, mode(fields[1]))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := strings.CutPrefix(fields[len(fields)-1], "owner="); ok && owner == "nobody" {
			if err := os.Lchown(path, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func mode(text string) os.FileMode {
	var m Mode
	if err := m.UnmarshalYAML(func(into any) error { *into.(*string) = strings.TrimPrefix(text, "+"); return nil }); err != nil {
		panic(err)
	}
	if strings.HasPrefix(text, "+") {
		return os.FileMode(m) | os.ModeSticky
	}
	return os.FileMode(m)
}

// Fault: a path that another user could swap; links in circles; pipes; directories. Result:
// the path is refused.
// Fault: symbolic links of trusted owners. Result: the links are followed.
func TestResolve(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		entries    []string
		path, want string
		problem    string
		root       bool
	}{
		"file":                         {[]string{"d/ 0755", "d/f 0644"}, "/d/f", "/d/f", "", false},
		"file to come":                 {[]string{"d/ 0750"}, "/d/f", "/d/f", "", false},
		"symbolic link":                {[]string{"d/ 0755", "e/ 0755", "e/f 0644", "d/l -> ../e/f"}, "/d/l", "/e/f", "", false},
		"symbolic link to an absolute": {[]string{"d/ 0755", "e/ 0755", "d/l -> /e/f"}, "/d/l", "/e/f", "", false},
		"linked directory":             {[]string{"e/ 0755", "e/f 0644", "l -> e"}, "/l/f", "/e/f", "", false},
		"up through a link":            {[]string{"a/ 0755", "a/b/ 0755", "a/f 0600", "f 0600", "l -> a/b", "m -> l/../f"}, "/m", "/a/f", "", false},
		"links in a row":               {[]string{"a -> b", "b -> c", "c -> ./d", "d 0600"}, "/a", "/d", "", false},
		"links in a circle":            {[]string{"a -> b", "b -> a"}, "/a", "", "too many symbolic links", false},
		"no directory":                 {nil, "/d/f", "", "does not exist", false},
		"a file on the way":            {[]string{"d 0644"}, "/d/f", "", "not a directory", false},
		"a directory at the end":       {[]string{"d/ 0755"}, "/d", "", "is a directory", false},
		"a pipe":                       {[]string{"f fifo"}, "/f", "", "not a regular file", false},
		"writable for the group":       {[]string{"d/ 0775"}, "/d/f", "", "chmod go-w", false},
		"writable for all":             {[]string{"d/ 0777", "d/e/ 0755"}, "/d/e/f", "", "chmod go-w", false},
		"sticky on the way":            {[]string{"d/ +0777", "d/e/ 0755"}, "/d/e/f", "/d/e/f", "", false},
		"sticky at the end":            {[]string{"d/ +0777"}, "/d/f", "", "chmod go-w", false},
		"linked out of a sticky one":   {[]string{"d/ +0777", "d/l -> ../e", "e/ 0755"}, "/d/l/f", "/e/f", "", false},
		"another's directory":          {[]string{"d/ 0755 owner=nobody"}, "/d/f", "", "belongs to the user with number 65534", true},
		"another's directory above":    {[]string{"d/ 0755", "d/e/ 0755", "d/ 0755 owner=nobody"}, "/d/e/f", "", "belongs to the user", true},
		"another's link":               {[]string{"d/ +0777", "e/ 0755", "d/l -> ../e owner=nobody"}, "/d/l/f", "", "could point it elsewhere", true},
		"another's file":               {[]string{"d/ 0755", "d/f 0600 owner=nobody"}, "/d/f", "/d/f", "", true},
	} {
		t.Run(strings.ReplaceAll(name, " ", "_"), func(t *testing.T) {
			t.Parallel()
			if c.root {
				needRoot(t)
			}
			var entries []string
			for _, e := range c.entries { // a second mention changes the owner
				if e == "d/ 0755 owner=nobody" && len(entries) > 0 {
					continue
				}
				entries = append(entries, e)
			}
			root := tree(t, entries...)
			if len(entries) < len(c.entries) {
				if err := os.Lchown(filepath.Join(root, "d"), 65534, 65534); err != nil {
					t.Fatal(err)
				}
			}
			got, err := resolve(root + c.path)
			if c.problem != "" {
				if err == nil || !strings.Contains(err.Error(), c.problem) {
					t.Errorf("%q, %v, want an error with %q", got, err, c.problem)
				}
				return
			}
			if err != nil || got != root+c.want {
				t.Errorf("%q, %v, want %q", got, err, root+c.want)
			}
		})
	}
}

// TestSymbolicLinksStay: what they lead to is replaced.
//
// Fault: symbolic links of trusted owners. Result: the links are followed; and stay.
func TestSymbolicLinksStay(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		dir := filepath.Dir(d.CertPath)
		elsewhere := privateDir(t)
		names := map[string]bool{d.CertPath: true, d.KeyPath: true}
		if d.ChainPath != "" {
			names[d.ChainPath] = true
		}
		for path := range names {
			if err := os.Symlink(filepath.Join(elsewhere, filepath.Base(path)), path); err != nil {
				t.Fatal(err)
			}
		}
		links := snapshot(t, dir)
		for range 2 {
			m := a.fresh(t)
			mustDeploy(t, deployer(), d, m, Deployed)
			wantContents(t, d, m)
			wantSame(t, links, snapshot(t, dir))
		}
		// And after a failure.
		files := snapshot(t, elsewhere)
		d.ReloadCommand = Command{"false"}
		wantFailure(t, deployer(), d, a.fresh(t), "DEPLOY_RELOAD", StepReload, RollbackFailed)
		wantSame(t, links, snapshot(t, dir))
		wantSame(t, files, snapshot(t, elsewhere))
	})
}

// TestTwoNamesOfOneFile: links make a combined file of two names.
//
// Fault: two names of one file. Result: the one file gets all; with the mode of a key.
func TestTwoNamesOfOneFile(t *testing.T) {
	t.Parallel()
	dir := privateDir(t)
	d := layouts["apart"](dir)
	if err := os.Symlink("key.pem", d.CertPath); err != nil {
		t.Fatal(err)
	}
	m := newAuthority(t).fresh(t)
	mustDeploy(t, deployer(), d, m, Deployed)
	data, err := os.ReadFile(d.CertPath)
	if err != nil || strings.Count(string(data), "BEGIN CERTIFICATE") != 2 || !strings.HasPrefix(string(data), "-----BEGIN PRIVATE KEY") {
		t.Errorf("%v\n%s", err, data)
	}
	if info, err := os.Stat(d.CertPath); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestModeAndOwnerComeBeforeContent: a key is never in a file that others may read.
//
// Fault: another user reads the directory while a key is written. Result: a new file has
// its owner and mode before it has content.
func TestModeAndOwnerComeBeforeContent(t *testing.T) {
	t.Parallel()
	needRoot(t)
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		d.KeyOwner, d.KeyGroup, d.KeyMode, d.CertMode = "1", "8", 0o640, 0o444
		created, written := map[string]entry{}, map[string]entry{}
		h := deployer()
		h.Reached = func(point string) {
			for name, e := range snapshot(t, filepath.Dir(d.CertPath)) {
				if !strings.HasSuffix(name, ".certpost-new") {
					continue
				}
				if _, ok := created[name]; !ok && point == pointCreated {
					created[name] = e
				}
				written[name] = e
			}
		}
		mustDeploy(t, h, d, a.fresh(t), Deployed)
		for name, e := range written {
			first := created[name]
			if first.content != "" || e.content == "" || first.inode != e.inode || first.mode != e.mode || first.uid != e.uid || first.gid != e.gid {
				t.Errorf("%s: %+v, then %+v", name, first, e)
			}
		}
		key := created[filepath.Base(d.KeyPath)+".certpost-new"]
		if key.mode != 0o640 || key.uid != 1 || key.gid != 8 {
			t.Errorf("%+v", key)
		}
	})
}

// Fault: unknown owner or group. Result: fails (DEPLOY_WRITE); the former files keep their
// owners and modes.
func TestOwners(t *testing.T) {
	t.Parallel()
	needRoot(t)
	a := newAuthority(t)
	eachLayout(t, func(t *testing.T, d Deployment) {
		d.Owner, d.Group, d.KeyGroup, d.KeyMode = "1", "daemon", "mail", 0o640
		mustDeploy(t, deployer(), d, a.fresh(t), Deployed)
		want := func(uid, gid, keyUID, keyGID int) {
			t.Helper()
			now := snapshot(t, filepath.Dir(d.CertPath))
			cert, key := now[filepath.Base(d.CertPath)], now[filepath.Base(d.KeyPath)]
			if key.uid != keyUID || key.gid != keyGID || key.mode != 0o640 || !combined(d) && (cert.uid != uid || cert.gid != gid) {
				t.Errorf("cert %+v, key %+v", cert, key)
			}
		}
		want(1, 1, 1, 8)
		// Not given: as they were.
		d.Owner, d.Group, d.KeyGroup = "", "", ""
		m := a.fresh(t)
		mustDeploy(t, deployer(), d, m, Deployed)
		want(1, 1, 1, 8)
		before := snapshot(t, filepath.Dir(d.CertPath))
		for _, c := range []Deployment{{Owner: "no-such-user"}, {KeyGroup: "no-such-group"}, {Owner: "-5"}} {
			wrong := d
			wrong.Owner, wrong.KeyGroup = c.Owner, c.KeyGroup
			f := wantFailure(t, deployer(), wrong, a.fresh(t), "DEPLOY_WRITE", StepPaths, NotNeeded)
			if !strings.Contains(f.Reason, "there is no ") {
				t.Error(f)
			}
			wantSame(t, before, snapshot(t, filepath.Dir(d.CertPath)))
		}
	})
}
