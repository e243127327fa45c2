package mongoloop_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/onloop/eventloop"
	mongoloop "github.com/onloop/eventloop/drivers/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo"
)

func TestWhatIsGivenNilSaysSo(t *testing.T) {
	if c, err := mongoloop.Connect(nil); c != nil || fmt.Sprint(err) != "mongoloop: nil Loop" {
		t.Errorf("Connect: %v", err) // and goleak finds no goroutine of the official client
	}
	var noContext context.Context
	on(t, newFake(), func(_ *eventloop.Loop, _ *mongoloop.Client, coll *mongoloop.Collection[user]) {
		do := func(context.Context, *mongo.Client) (int, error) { return 0, nil }
		for name, test := range map[string]struct {
			call func()
			want string
		}{
			"In":      {func() { mongoloop.In[user](nil, "app", "users") }, "mongoloop: nil Client"},
			"Do":      {func() { mongoloop.Do(background(), nil, do) }, "mongoloop: nil Client"},
			"FindOne": {func() { coll.FindOne(noContext, id(0)) }, "eventloop: nil context"},
			"Find":    {func() { coll.Find(noContext, id(0), func(user) {}, func(error) {}) }, "mongoloop: nil context"},
		} {
			if got := panicOf(test.call); got != test.want {
				t.Errorf("%s: panic %q, want %q", name, got, test.want)
			}
		}
	})
}

func panicOf(f func()) (text string) {
	defer func() { text = fmt.Sprint(recover()) }()
	f()
	return ""
}
