module github.com/onloop/eventloop/drivers/e2e

go 1.26.0

replace github.com/onloop/eventloop => ../..

replace github.com/onloop/eventloop/drivers/redis => ../redis

require (
	github.com/gomodule/redigo v1.9.3
	github.com/onloop/eventloop v0.0.0
	github.com/onloop/eventloop/drivers/redis v0.0.0-00010101000000-000000000000
	github.com/redis/go-redis/v9 v9.23.0
	github.com/redis/rueidis v1.0.79
)

require (
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/miekg/dns v1.1.73 // indirect
	github.com/molecule-man/go-brrr v1.3.0 // indirect
	github.com/valyala/bytebufferpool v1.0.0 // indirect
	github.com/valyala/fasthttp v1.77.0 // indirect
	go.uber.org/atomic v1.12.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
