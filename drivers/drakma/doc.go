// Package drakma is a rich HTTP client for programs on an event loop, modeled on Drakma, the
// HTTP client of Common Lisp. It adds forms, files, authorization, cookies, retries and
// decoding to the HTTP client of the loop.
//
//	d := drakma.New(l, drakma.Options{Jar: drakma.NewJar(), Retry: drakma.Retry{Max: 3}})
//	d.Get(ctx, "https://example.org/search").Query("q", "x").Text().Then(func(text string, err error) {
//		fmt.Println(text, err)
//	})
//
// A method of [Client] begins a request. Methods of [Request] add to it, and one of them
// sends it and returns a future. The future of [Request.Do] returns the response,
// [Request.Text] the body as UTF-8 and [Request.Bytes] the body as bytes. [Request.Into]
// decodes a JSON document, [Request.Save] writes the body to a file, and [Request.Stream]
// passes it to a callback.
//
// # Where code runs
//
// All methods may be called from any goroutine and from any callback. None of them blocks,
// except that [Request.JSON] encodes at once. Callbacks of futures run on the loop. Goroutines
// of the client read and write files, and functions of [eventloop.Work] decode large
// documents. A [Request] must not be used by two goroutines at a time.
//
// # Errors
//
// Each failure is reported once, by the future:
//
//   - [ErrSent], and errors for invalid URLs, fields and other arguments
//   - [*eventloop.OpError] for the connection and HTTP, see [eventloop.HTTPClient.Do]
//   - [*StatusError], [*CharsetError], [*DecodeError] and [*ChallengeError], which contain
//     the response with its body
//   - [eventloop.ErrHTTPRedirects], [ErrFileChanged] and errors of files
//   - an error that matches the error of the context and its cause
//   - [*eventloop.PanicError] for a panic in code of the application: in UnmarshalJSON of a
//     value that [Request.Into] decodes, in Write of Options.Log, and in Read and Close of a
//     body
//
// A panic in the callback of [Request.Stream] is different: it is a panic in a callback of
// the loop, and leaves Run unless [eventloop.Config].CatchPanics is set.
//
// # Redirects, retries and authorization
//
// One request of the application may become several requests on the network, see
// [Response.Attempts]. Each of them is a separate request of the loop's HTTP client: it can use
// an idle connection, and the jar stores its cookies. The client sends a body again if that is
// possible, which it is for all bodies except those of [Request.Body] and [Reader].
//
// With a Retry, with digest authorization, and in Save and Stream, the client decides by the
// header of a response whether it is the result. If it is not, the client drains the body for
// at most a second, so that the connection can be used again, unless Content-Length is over
// 256 KB. Without them, the client decides after the body has arrived. Then a redirect with a
// body over [eventloop.HTTPClientConfig].MaxBodyBytes is an error.
//
// Authorization, Cookie, Proxy-Authorization and Host fields and the responses to challenges
// are sent only to the scheme, host and port of the request's URL, even after a redirect.
// Those in [Options].Headers are sent only to the scheme, host and port of the BaseURL, if
// there is one. The jar decides where its cookies are sent.
//
// # Lifetime
//
// A pending request keeps the loop alive, including while it waits for a retry. When
// the loop ends by force, the future fails with [eventloop.ErrLoopClosed], the
// temporary file of [Request.Save] is removed, and an unsent body is closed. A client
// with pending requests is a handle of the loop, of the kind "drakma". An idle client
// has no handle.
//
// # Limitations
//
// The package does not cache responses, does not resume a download in a later request (use
// [Request.Range]), does not respond to challenges of proxies, and does not check the field
// rspauth of digest authorization. For HTTP/2, set [eventloop.HTTPClientConfig].Transport in
// Options.Client.
package drakma
