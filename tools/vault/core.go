package main

import (
	"context"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/armon/go-metrics"
	"github.com/hashicorp/go-hclog"
	jwt "github.com/hashicorp/vault-plugin-auth-jwt"
	kubernetes "github.com/hashicorp/vault-plugin-auth-kubernetes"
	kv "github.com/hashicorp/vault-plugin-secrets-kv"
	"github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/credential/cert"
	"github.com/hashicorp/vault/builtin/credential/userpass"
	"github.com/hashicorp/vault/builtin/logical/pki"
	"github.com/hashicorp/vault/builtin/logical/transit"
	"github.com/hashicorp/vault/command/server"
	"github.com/hashicorp/vault/helper/metricsutil"
	"github.com/hashicorp/vault/helper/namespace"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/inmem"
	"github.com/hashicorp/vault/vault"
)

// plugins are the engines and auth methods that are built in.
type plugins map[consts.PluginType]map[string]logical.Factory

func builtIn() plugins {
	return plugins{
		consts.PluginTypeSecrets: {"kv": kv.Factory, "pki": pki.Factory, "transit": transit.Factory},
		consts.PluginTypeCredential: {
			"approle": approle.Factory, "cert": cert.Factory, "jwt": jwt.Factory,
			"kubernetes": kubernetes.Factory, "userpass": userpass.Factory,
		},
	}
}

// The following methods are the registry of built-in plugins that the core uses.

func (p plugins) Get(name string, t consts.PluginType) (func() (any, error), bool) {
	f, ok := p[t][name]
	return func() (any, error) { return f, nil }, ok
}

func (p plugins) Contains(name string, t consts.PluginType) bool {
	_, ok := p[t][name]
	return ok
}

func (p plugins) Keys(t consts.PluginType) []string { return slices.Collect(maps.Keys(p[t])) }

func (p plugins) DeprecationStatus(name string, t consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, p.Contains(name, t)
}

func (plugins) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }

func newCore(address, level string, log hclog.Logger) (*vault.Core, error) {
	storage, err := inmem.NewInmem(nil, log.Named("storage"))
	if err != nil {
		return nil, err
	}
	known := builtIn()
	sink := metrics.NewInmemSink(10*time.Second, time.Minute)
	return vault.NewCore(&vault.CoreConfig{
		Physical:           storage,
		StorageType:        "inmem",
		LogicalBackends:    known[consts.PluginTypeSecrets],
		CredentialBackends: known[consts.PluginTypeCredential],
		AuditBackends:      map[string]audit.Factory{"file": audit.NewFileBackend},
		BuiltinRegistry:    known,
		Logger:             log,
		LogLevel:           level,
		DisableMlock:       true,
		RedirectAddr:       address,
		RawConfig:          &server.Config{SharedConfig: &configutil.SharedConfig{DisableMlock: true}},
		MetricsHelper:      metricsutil.NewMetricsHelper(sink, false),
	})
}

// initialize sets the core up like Vault's own dev mode: one key share, unsealed, a
// KV version 2 engine at secret/. If token is not empty, it becomes the root token.
// It returns the root token and the unseal key in hexadecimal.
func initialize(core *vault.Core, token string) (root, key string, err error) {
	ctx := namespace.RootContext(context.Background())
	made, err := core.Initialize(ctx, &vault.InitParams{
		BarrierConfig: &vault.SealConfig{SecretShares: 1, SecretThreshold: 1, StoredShares: 1, Name: "shamir"},
	})
	if err != nil {
		return "", "", err
	}
	key, root = hex.EncodeToString(made.SecretShares[0]), made.RootToken
	if ok, err := core.Unseal(made.SecretShares[0]); err != nil || !ok {
		return "", "", errors.Join(errors.New("unseal failed"), err)
	}
	write := func(path string, data map[string]any) (*logical.Response, error) {
		resp, err := core.HandleRequest(ctx, &logical.Request{
			Operation: logical.UpdateOperation, ClientToken: root, Path: path, Data: data,
		})
		if err == nil && resp.IsError() {
			err = resp.Error()
		}
		return resp, err
	}
	if token != "" {
		resp, err := write("auth/token/create", map[string]any{
			"id": token, "policies": []string{"root"}, "no_parent": true, "no_default_policy": true,
		})
		if err != nil {
			return "", "", err
		}
		if _, err := write("auth/token/revoke-self", nil); err != nil {
			return "", "", err
		}
		root = resp.Auth.ClientToken
	}
	_, err = write("sys/mounts/secret", map[string]any{"type": "kv", "options": map[string]string{"version": "2"}})
	return root, key, err
}
