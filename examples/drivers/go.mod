module github.com/onloop/eventloop/examples/drivers

go 1.26.0

replace (
	github.com/onloop/eventloop => ../..
	github.com/onloop/eventloop/drivers/aws => ../../drivers/aws
	github.com/onloop/eventloop/drivers/aws/s3 => ../../drivers/aws/s3
	github.com/onloop/eventloop/drivers/beanstalk => ../../drivers/beanstalk
	github.com/onloop/eventloop/drivers/drakma => ../../drivers/drakma
	github.com/onloop/eventloop/drivers/mongo => ../../drivers/mongo
	github.com/onloop/eventloop/drivers/redis => ../../drivers/redis
	github.com/onloop/eventloop/drivers/smtp => ../../drivers/smtp
)

require (
	github.com/aws/aws-sdk-go-v2 v1.48.0
	github.com/aws/aws-sdk-go-v2/credentials v1.21.0
	github.com/aws/aws-sdk-go-v2/service/s3 v1.114.10
	github.com/onloop/eventloop v0.0.0
	github.com/onloop/eventloop/drivers/aws v0.0.0-00010101000000-000000000000
	github.com/onloop/eventloop/drivers/aws/s3 v0.0.0-00010101000000-000000000000
	github.com/onloop/eventloop/drivers/beanstalk v0.0.0-00010101000000-000000000000
	github.com/onloop/eventloop/drivers/drakma v0.0.0-00010101000000-000000000000
	github.com/onloop/eventloop/drivers/mongo v0.0.0-00010101000000-000000000000
	github.com/onloop/eventloop/drivers/redis v0.0.0-00010101000000-000000000000
	github.com/onloop/eventloop/drivers/smtp v0.0.0-00010101000000-000000000000
	go.mongodb.org/mongo-driver/v2 v2.10.0
)

require (
	github.com/aws/aws-sdk-go-v2/aws/protocol/eventstream v1.7.27 // indirect
	github.com/aws/aws-sdk-go-v2/feature/s3/transfermanager v0.5.7 // indirect
	github.com/aws/aws-sdk-go-v2/internal/configsources v1.5.12 // indirect
	github.com/aws/aws-sdk-go-v2/internal/endpoints/v2 v2.8.12 // indirect
	github.com/aws/aws-sdk-go-v2/internal/v4a v1.5.12 // indirect
	github.com/aws/aws-sdk-go-v2/service/internal/accept-encoding v1.13.25 // indirect
	github.com/aws/aws-sdk-go-v2/service/internal/checksum v1.11.13 // indirect
	github.com/aws/aws-sdk-go-v2/service/internal/presigned-url v1.14.12 // indirect
	github.com/aws/aws-sdk-go-v2/service/internal/s3shared v1.20.12 // indirect
	github.com/aws/smithy-go v1.28.9 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/miekg/dns v1.1.73 // indirect
	github.com/molecule-man/go-brrr v1.3.0 // indirect
	github.com/valyala/bytebufferpool v1.0.0 // indirect
	github.com/valyala/fasthttp v1.77.0 // indirect
	github.com/xdg-go/scram v1.4.0 // indirect
	github.com/xdg-go/stringprep v1.0.4 // indirect
	github.com/youmark/pkcs8 v0.0.0-20240726163527-a2c0da244d78 // indirect
	golang.org/x/crypto v0.58.0 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
