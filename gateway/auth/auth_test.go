package auth

import (
	"context"
	"errors"
	"testing"

	"github.com/weir-iot/weir/gateway"
)

func TestSmoke(t *testing.T) {
	h, err := Hash("secret")
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(map[string]User{"boiler": {h, "sensor"}}, map[string]Role{"sensor": {Publish: []string{"plant1/%u/#"}}})
	if err != nil {
		t.Fatal(err)
	}
	a, err := p.Authenticate(context.Background(), "boiler", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if err := a.CanPublish("plant1/boiler/x", "c"); err != nil {
		t.Fatal(err)
	}
	err = a.CanPublish("plant1/other", "c")
	t.Log(err)
	if !errors.Is(err, gateway.ErrDenied) {
		t.Fatal(err)
	}
}
