package redis

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/onloop/eventloop"
	"github.com/onloop/eventloop/drivers/redis/internal/resp"
)

// SubscribeOptions are the settings of a [Subscription].
type SubscribeOptions struct {
	// Channels, Patterns and Shards are the names of channels, patterns of names such as
	// "news.*", and the names of shard channels. Subscription.Add and its variants add more.
	Channels, Patterns, Shards []string

	// OnMessage is called on the loop with each message, in order. If it is nil, messages
	// are queued for Subscription.All. With Config.CatchPanics, the next message follows a
	// panic.
	OnMessage func(m Message)

	// OnGap is called on the loop each time the subscription is complete again after its
	// connection was lost, before the messages that follow the gap. Messages that were
	// published in between are missing. err is the reason. Redis does not store messages,
	// so a program that depends on all of them must now read the current state.
	OnGap func(err error)
}

// A Message is a message of a subscription.
type Message struct {
	Channel string
	Pattern string // the pattern that the channel matched; empty for a subscribed channel
	Payload string
}

// A Subscription receives messages over its own connection. It reconnects automatically,
// and keeps the loop alive until it is closed. Loop.Shutdown closes it.
//
// A paused subscription does not read. The server buffers messages, up to its limit for
// slow subscribers (client-output-buffer-limit pubsub), and then closes the connection,
// which causes a gap.
//
// All methods may be called from any goroutine and from any callback, except All.
type Subscription struct {
	c         *Client
	owner     *eventloop.Owner
	done      *eventloop.Promise[struct{}]
	first     *eventloop.Future[struct{}]
	onMessage func(m Message)
	onGap     func(err error)

	// Only on the loop.
	link        *link
	backoff     backoff
	timer       *eventloop.Timer // for the next attempt to connect
	pinger      *eventloop.Timer
	names       [3]map[string]struct{} // the subscribed names, by topicKind
	groups      ring[*topicChange]     // the changes that were sent and are not confirmed
	waiting     []*topicChange         // unsent changes, and those whose connection was lost
	restoring   *topicChange           // all names, after the connection was lost
	gap         error                  // why messages are missing, until onGap is called
	gapPosted   bool                   // callOnGap is posted; messages wait for it
	panicked    *eventloop.PanicError  // in OnMessage; messages wait until it is reported
	complete    bool                   // the subscription has been complete before
	dataArrived bool                   // data has arrived since the last check of the pinger
	pinged      bool
	over        bool
	box         mailbox

	paused, closed atomic.Bool // set at once, on the caller's goroutine
}

// topicKind is the kind of a name: channel, pattern or shard channel.
type topicKind int

const (
	channels topicKind = iota
	patterns
	shards
)

var (
	subscribeNames   = [...]string{"SUBSCRIBE", "PSUBSCRIBE", "SSUBSCRIBE"}
	unsubscribeNames = [...]string{"UNSUBSCRIBE", "PUNSUBSCRIBE", "SUNSUBSCRIBE"}
)

// A topicChange adds or removes names.
type topicChange struct {
	eventloop.Promise[struct{}]
	kind   topicKind
	remove bool
	names  []string
	added  []string // the names that were not subscribed before
	left   int      // the number of missing confirmations
}

// ended fails the change because the subscription has ended. Done reports that.
func (ch *topicChange) ended(err error) {
	ch.Ignore()
	ch.Resolve(struct{}{}, err)
}

// pingAfter is the time without input after which a subscription checks its connection. It
// is also the timeout of the reply.
const pingAfter = 30 * time.Second

// Subscribe begins a subscription and returns at once. Ready and Done report a closed
// client, and a user that may not connect.
func (c *Client) Subscribe(o SubscribeOptions) *Subscription {
	s := &Subscription{c: c, onMessage: o.OnMessage, onGap: o.OnGap, done: &eventloop.Promise[struct{}]{}}
	s.backoff = backoff{min: c.o.MinBackoff, max: c.o.MaxBackoff}
	var err error
	s.owner, err = eventloop.NewOwner(c.l, "redis subscription", c.o.Addr, func(error) {
		s.over = true
		s.repeatPanic()
	})
	if err != nil { // the loop has ended, and so has the owner of the client
		s.owner = c.owner
	}
	s.done.Init(s.owner)
	if err := c.addPart(s); err != nil {
		s.over = true
		s.done.Resolve(struct{}{}, err)
		s.owner.Close() // changes fail at once
	}
	s.owner.OnShutdown(func() { s.Close() })
	s.first = s.change(channels, false, o.Channels)
	for kind, names := range [][]string{nil, o.Patterns, o.Shards} {
		if len(names) > 0 {
			s.first = s.change(topicKind(kind), false, names) // the last is confirmed last
		}
	}
	return s
}

// Ready returns a future that succeeds when the server has confirmed the names in
// SubscribeOptions. Every message published after that arrives, unless there is a gap.
func (s *Subscription) Ready() *eventloop.Future[struct{}] { return s.first }

// Done returns a future that succeeds when the subscription is closed. It fails if the
// subscription has ended because the server refused the connection.
func (s *Subscription) Done() *eventloop.Future[struct{}] { return &s.done.Future }

// Add subscribes to more channels. The future succeeds when the server has confirmed
// them.
func (s *Subscription) Add(channel ...string) *eventloop.Future[struct{}] {
	return s.change(channels, false, channel)
}

// AddPatterns is like Add, for patterns.
func (s *Subscription) AddPatterns(pattern ...string) *eventloop.Future[struct{}] {
	return s.change(patterns, false, pattern)
}

// AddShards is like Add, for shard channels.
func (s *Subscription) AddShards(shard ...string) *eventloop.Future[struct{}] {
	return s.change(shards, false, shard)
}

// Remove unsubscribes from channels. Messages may arrive until the future succeeds.
func (s *Subscription) Remove(channel ...string) *eventloop.Future[struct{}] {
	return s.change(channels, true, channel)
}

// RemovePatterns is like Remove, for patterns.
func (s *Subscription) RemovePatterns(pattern ...string) *eventloop.Future[struct{}] {
	return s.change(patterns, true, pattern)
}

// RemoveShards is like Remove, for shard channels.
func (s *Subscription) RemoveShards(shard ...string) *eventloop.Future[struct{}] {
	return s.change(shards, true, shard)
}

func (s *Subscription) change(kind topicKind, remove bool, names []string) *eventloop.Future[struct{}] {
	ch := &topicChange{kind: kind, remove: remove, names: append([]string(nil), names...)}
	if ch.Init(s.owner) != nil {
		ch.Ignore() // Done reports it
		return &ch.Future
	}
	s.c.l.Post(func() { s.apply(ch) })
	return &ch.Future
}

// apply makes a change. It runs on the loop, like the functions below unless they say
// otherwise.
func (s *Subscription) apply(ch *topicChange) {
	if s.over {
		ch.ended(s.c.o.opError(errSubscriptionClosed))
		return
	}
	set := s.names[ch.kind]
	if set == nil {
		set = make(map[string]struct{})
		s.names[ch.kind] = set
	}
	for _, name := range ch.names {
		if ch.remove {
			delete(set, name)
		} else if _, ok := set[name]; !ok {
			set[name] = struct{}{}
			ch.added = append(ch.added, name)
		}
	}
	switch {
	case s.link != nil && s.link.up:
		s.sendChange(ch)
	default:
		s.waiting = append(s.waiting, ch) // the next connection gets all names
		s.connect()
	}
}

func (s *Subscription) sendChange(ch *topicChange) {
	if len(ch.names) == 0 {
		ch.Resolve(struct{}{}, nil)
		return
	}
	ch.left = len(ch.names)
	s.groups.push(ch)
	command := subscribeNames[ch.kind]
	if ch.remove {
		command = unsubscribeNames[ch.kind]
	}
	s.sendNow(command, ch.names)
}

func (s *Subscription) sendNow(args ...any) {
	out, _ := resp.AppendCommand(nil, args...)
	s.link.conn.Write(out)
}

func (s *Subscription) connect() {
	if s.link != nil || s.over || s.timer != nil {
		return
	}
	link, err := dialLink(s.c.l, s.c.o, s)
	if err != nil {
		s.end(err)
		return
	}
	s.link = link
}

// linkUp subscribes to everything.
func (s *Subscription) linkUp() {
	s.owner.SetName(s.c.o.Addr)
	total := 0
	for kind, set := range s.names {
		if len(set) == 0 {
			continue
		}
		names := make([]string, 0, len(set))
		for name := range set {
			names = append(names, name)
		}
		total += len(names)
		s.sendNow(subscribeNames[kind], names)
	}
	s.restoring = &topicChange{left: total}
	s.groups.push(s.restoring)
	if total == 0 {
		s.groups.pop()
		s.restored()
	}
	s.startPinger()
}

// restored records that the subscription is complete.
func (s *Subscription) restored() {
	s.restoring = nil
	s.backoff.reset()
	for _, ch := range s.waiting {
		ch.Resolve(struct{}{}, nil)
	}
	s.waiting = nil
	if s.complete {
		s.reportGap()
		return
	}
	s.complete = true
	s.reportPanic(s.gap)
	s.gap = nil
}

// reportGap reports that messages are missing, before the messages that follow them.
func (s *Subscription) reportGap() {
	if s.onMessage != nil && s.onGap != nil {
		s.gapPosted = true
		s.c.l.Post(s.callOnGap)
		return
	}
	err := s.gap
	s.gap = nil
	if s.onMessage == nil {
		s.box.putGap(err)
	} else {
		s.reportPanic(err)
	}
}

// reportPanic reports a panic that ended the connection, for example in code of Options.Dial,
// and that OnGap does not report.
func (s *Subscription) reportPanic(err error) {
	if p, ok := errors.AsType[*eventloop.PanicError](err); ok {
		failed[struct{}](s.owner, p)
	}
}

// callOnGap calls OnGap. It is a post, because a panic in a callback of the connection
// would end the connection: the next gap, with the next call.
func (s *Subscription) callOnGap() {
	s.gapPosted = false
	defer s.setPaused()
	if s.over || s.closed.Load() || s.link == nil || !s.link.up || s.restoring != nil {
		return // if the connection was lost again, OnGap is called when it is restored
	}
	err := s.gap
	s.gap = nil
	s.onGap(err)
}

func (s *Subscription) linkDown(err error) {
	s.link = nil
	s.stopPinger()
	if s.gap == nil {
		s.gap = err
	} else { // the first reason counts
		s.reportPanic(err)
	}
	for s.groups.len > 0 {
		if ch := s.groups.pop(); ch != s.restoring {
			s.waiting = append(s.waiting, ch)
		}
	}
	s.restoring = nil
	if isPermanent(err) || errors.Is(err, eventloop.ErrLoopClosed) {
		s.end(err)
		return
	}
	s.owner.SetName(s.c.o.Addr + ", not connected: " + err.Error())
	s.timer = s.c.l.AfterFunc(s.backoff.delay(), func() {
		s.timer = nil
		s.connect()
	})
	s.timer.Unref()
}

func (s *Subscription) answered(tally)   {}
func (s *Subscription) dropped(tally)    {}
func (s *Subscription) sendFailed(error) {}

// unsolicited implements linkHost. It handles all input of the connection.
func (s *Subscription) unsolicited(v resp.Value) error {
	s.dataArrived = true
	if v.Kind == resp.Error {
		return s.refusedChange(&Error{v.Str})
	}
	if v.Kind == resp.Simple { // PONG
		return nil
	}
	e := v.Elems
	if len(e) == 3 && e[0].Str == "message" || len(e) == 3 && e[0].Str == "smessage" {
		s.deliver(Message{Channel: e[1].Str, Payload: e[2].Str})
		return nil
	}
	if len(e) == 4 && e[0].Str == "pmessage" {
		s.deliver(Message{Channel: e[2].Str, Pattern: e[1].Str, Payload: e[3].Str})
		return nil
	}
	if len(e) < 2 {
		return errUnsolicited
	}
	switch e[0].Str {
	case "subscribe", "psubscribe", "ssubscribe":
		s.confirmed()
	case "unsubscribe", "punsubscribe", "sunsubscribe":
		s.unsubscribed(e[1].Str)
	}
	return nil // and pong in version 2 of the protocol
}

// confirmed handles a confirmation of the oldest change.
func (s *Subscription) confirmed() {
	if s.groups.len == 0 {
		return
	}
	ch := *s.groups.front()
	if ch.left--; ch.left > 0 {
		return
	}
	s.groups.pop()
	if ch == s.restoring {
		s.restored()
	} else {
		ch.Resolve(struct{}{}, nil)
	}
}

// unsubscribed handles a confirmation, or the unsolicited message that a server sends when
// a shard has moved away.
func (s *Subscription) unsubscribed(name string) {
	if s.groups.len > 0 && (*s.groups.front()).remove {
		s.confirmed()
	}
}

// refusedChange handles an error reply to a change.
func (s *Subscription) refusedChange(err *Error) error {
	if s.groups.len == 0 {
		return err
	}
	ch := s.groups.pop()
	if ch == s.restoring {
		s.fail(err)
		return nil
	}
	for _, name := range ch.added { // the others are subscribed to
		delete(s.names[ch.kind], name)
	}
	ch.Resolve(struct{}{}, err)
	return nil
}

// fail ends the subscription because the server refuses it.
func (s *Subscription) fail(err error) {
	s.link.close()
	s.link = nil
	s.end(err)
}

func (s *Subscription) deliver(m Message) {
	if s.onMessage != nil {
		s.callOnMessage(m)
		return
	}
	if s.box.put(m) {
		s.setPaused()
	}
}

// callOnMessage calls OnMessage. A panic here would end the connection, and the messages that
// have arrived would be lost. So callOnMessage repeats the panic in a post. The next messages
// wait for it, because without CatchPanics none must follow.
func (s *Subscription) callOnMessage(m Message) {
	defer func() {
		v := recover()
		if v == nil {
			return
		}
		pe, ok := v.(*eventloop.PanicError)
		if !ok {
			pe = &eventloop.PanicError{Value: v, Stack: stackOfPanic()}
		}
		s.panicked = pe
		s.c.l.Post(func() {
			defer s.setPaused()
			s.repeatPanic()
		})
	}()
	s.onMessage(m)
}

// repeatPanic repeats a panic in OnMessage, in a callback of the loop. If the loop ends by
// force before the post of callOnMessage, this is the callback of the owner.
func (s *Subscription) repeatPanic() {
	if pe := s.panicked; pe != nil {
		s.panicked = nil
		panic(pe)
	}
}

// stackOfPanic returns the stack from the panic on. The deferred function that recovered the
// panic calls it.
func stackOfPanic() []byte {
	stack := debug.Stack()
	head := bytes.IndexByte(stack, '\n') // "goroutine 1 [running]:"
	if i := bytes.Index(stack, []byte("\npanic(")); i > head {
		stack = append(stack[:head:head], stack[i:]...)
	}
	return stack
}

// Pause stops the delivery of messages, and soon after it the reading. If Pause is called
// on the loop, OnMessage is not called after it, until Resume.
func (s *Subscription) Pause() {
	s.paused.Store(true)
	s.c.l.Post(s.setPaused)
}

// Resume undoes Pause.
func (s *Subscription) Resume() {
	s.paused.Store(false)
	s.c.l.Post(s.setPaused)
}

// mustPause implements linkHost.
func (s *Subscription) mustPause() bool {
	return s.paused.Load() || s.closed.Load() || s.box.full || s.gapPosted || s.panicked != nil
}

// setPaused pauses or resumes the connection.
func (s *Subscription) setPaused() {
	if s.link != nil && s.link.up {
		s.link.pause(s.mustPause())
	}
}

// Ref makes the subscription keep the loop alive. This is the default.
func (s *Subscription) Ref() { s.owner.Ref() }

// Unref lets the loop end although the subscription is open.
func (s *Subscription) Unref() { s.owner.Unref() }

// Close ends the subscription. Done reports its end. If Close is called on the loop, no
// callback is called after it. A second call does nothing.
func (s *Subscription) Close() {
	s.closed.Store(true)
	s.c.l.Post(func() { s.end(nil) })
}

// silence implements part.
func (s *Subscription) silence() { s.closed.Store(true) }

// abort implements part.
func (s *Subscription) abort(err error) { s.end(err) }

// end ends the subscription.
func (s *Subscription) end(err error) {
	if s.over {
		return
	}
	s.over = true
	s.stopPinger()
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.link != nil {
		s.link.leave(func() {})
	}
	s.c.removePart(s)
	reason := cmp.Or(err, s.c.o.opError(errSubscriptionClosed))
	for s.groups.len > 0 {
		if ch := s.groups.pop(); ch != s.restoring {
			ch.ended(reason)
		}
	}
	for _, ch := range s.waiting {
		ch.ended(reason)
	}
	s.waiting = nil
	if err == s.c.closedErr {
		s.done.Ignore() // the application has closed the client
	}
	s.reportPanic(s.gap)
	s.done.Resolve(struct{}{}, err)
	s.box.end(err)
	s.owner.CloseWithError(reason)
}

func (s *Subscription) startPinger() {
	s.dataArrived, s.pinged = true, false
	if s.pinger == nil {
		s.pinger = s.c.l.AfterFunc(pingAfter, s.ping)
		s.pinger.Unref()
	} else {
		s.pinger.Reset(pingAfter)
	}
}

func (s *Subscription) stopPinger() {
	if s.pinger != nil {
		s.pinger.Stop()
	}
}

// ping checks a connection without input.
func (s *Subscription) ping() {
	switch {
	case s.link == nil || !s.link.up:
		return
	case s.dataArrived || s.mustPause():
		s.dataArrived, s.pinged = false, false
	case s.pinged:
		s.link.end(os.ErrDeadlineExceeded)
		return
	default:
		s.pinged = true
		s.sendNow("PING")
	}
	s.pinger.Reset(pingAfter)
}
