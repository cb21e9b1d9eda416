// Build stub: stands in for the cloud client of the same import path, so that the
// test-only Vault server does not link it. Every entry point answers "not built in".
package admin

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/api/option"
)

const (
	AdminDirectoryGroupReadonlyScope = ""
	AdminDirectoryUserReadonlyScope  = ""
)

var errNotBuiltIn = errors.New("Google directory: not built in")

func NewService(context.Context, ...option.ClientOption) (*Service, error) {
	return nil, errNotBuiltIn
}

type Service struct {
	Groups groupsService
	Users  usersService
}

type groupsService struct{}

func (groupsService) List() groupsCall { return groupsCall{} }

type groupsCall struct{}

func (c groupsCall) UserKey(string) groupsCall   { return c }
func (c groupsCall) Domain(string) groupsCall    { return c }
func (c groupsCall) Fields(...string) groupsCall { return c }

func (groupsCall) Pages(context.Context, func(*Groups) error) error { return errNotBuiltIn }

type Groups struct{ Groups []*Group }

type Group struct{ Email string }

type usersService struct{}

func (usersService) Get(string) usersCall { return usersCall{} }

type usersCall struct{}

func (c usersCall) Context(context.Context) usersCall { return c }
func (c usersCall) Projection(string) usersCall       { return c }
func (c usersCall) CustomFieldMask(string) usersCall  { return c }
func (c usersCall) Fields(...string) usersCall        { return c }
func (usersCall) Do() (*User, error)                  { return nil, errNotBuiltIn }

type User struct{ CustomSchemas map[string]json.RawMessage }
