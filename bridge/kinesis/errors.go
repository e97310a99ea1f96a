package kinesis

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/weir-iot/weir/gateway"
)

// callError puts what the SDK says about a whole call into plain words. Only a call whose records are wrong
// is gateway.ErrInvalid: a missing stream, a missing right or a lost key come of how things are set
// up, hit every event alike, and no event is to be lost for them.
func (l *link) callError(err error) error {
	var sending *smithyhttp.RequestSendError
	if errors.As(err, &sending) {
		return sending.Err
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return fmt.Errorf("cannot make sense of the far end's answer: %w", err)
	}
	code, text := api.ErrorCode(), api.ErrorMessage()
	advice := ""
	switch code {
	case "ValidationException", "InvalidArgumentException":
		// As in "Value at 'records.1.member.data' failed to satisfy constraint". Without a word about
		// records it may be something else that is not valid, and waiting loses nothing.
		if strings.Contains(strings.ToLower(text), "record") {
			return gateway.Errorf(gateway.ErrInvalid, "%s: %s", code, text)
		}
	case "ProvisionedThroughputExceededException", "LimitExceededException", "ThrottlingException":
		return gateway.Errorf(gateway.ErrFull, "the far end answers %s: %s", code, text)
	case "ResourceNotFoundException":
		advice = fmt.Sprintf("check stream and region: %s in %s", l.s.c.Stream, l.s.c.Region)
	case "AccessDeniedException":
		advice = "the keys need the right kinesis:PutRecords on the stream"
	case "UnrecognizedClientException", "InvalidClientTokenId", "MissingAuthenticationTokenException", "IncompleteSignatureException":
		advice = "check the keys"
	case "ExpiredTokenException":
		advice = "the session_token has expired"
	case "InvalidSignatureException", "SignatureDoesNotMatch", "RequestExpired":
		advice = "check secret_access_key, and this machine's clock"
	}
	if advice != "" {
		advice = " (" + advice + ")"
	}
	return fmt.Errorf("the far end answers %s: %s%s", code, text, advice)
}

func credentialError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		err = errors.New("no answer in time")
	}
	return fmt.Errorf("no credentials: set access_key_id and secret_access_key, or what the AWS tools use: %w", err)
}
