/*-------------------------------------------------------------------------
 *
 * tls.c
 *	  TLS on a socket that is connected: bytes in and out, as by send(2) and
 *	  recv(2).
 *
 * OpenSSL does it, the one that PostgreSQL is linked with already.  It reads
 * and writes through functions of ours, so that flags and signals stay in our
 * hands, and that no more than one recv(2) of a call waits, or a server that
 * sends a byte now and then could hold us for ever.
 *
 * The server's certificate is always verified, and so is its name: whoever has
 * one that no authority has signed names the certificate itself in
 * slate_cache.tls_ca_file.
 *
 * Invariants:
 *
 * - OpenSSL's queue of errors, which PostgreSQL's own connections use as well,
 *	 is empty between calls.
 * - All that OpenSSL has read of the socket but not handed out is part of one
 *	 record, since by default it reads no further; so who reads until EAGAIN
 *	 may poll(2).
 *
 * The settings' files are read once by a process, and again after a setting was
 * changed, or TLS has failed: they may have been renewed.  Keys with a
 * passphrase are refused, since OpenSSL would ask the terminal.
 *
 * Throws: nothing.  No locks.
 *
 *-------------------------------------------------------------------------
 */
#include "compat.h"

#include <sys/stat.h>

#include "tls.h"

/* Settings; see tls.h. */
char	   *slate_tls_ca_file = NULL;
char	   *slate_tls_cert_file = NULL;
char	   *slate_tls_key_file = NULL;
char	   *slate_tls_server_name = NULL;

/* What slate_tls_error() returns. */
static char error_text[256];

static void set_error(const char *format,...) pg_attribute_printf(1, 2);

static void
set_error(const char *format,...)
{
	va_list		args;

	va_start(args, format);
	vsnprintf(error_text, sizeof(error_text), format, args);
	va_end(args);
}

const char *
slate_tls_error(void)
{
	return error_text;
}

#ifdef USE_OPENSSL

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

struct SlateTls
{
	SSL		   *ssl;
	int			fd;
	int			flags;			/* of the next recv(2) */
	int			io_errno;		/* of the last send(2) or recv(2), 0: it
								 * worked */
	int			reads_left;		/* before the caller looks at the clock */
	bool		at_end;			/* the server has closed the connection */
	bool		wants_write;
};

/*
 * So often a call may read from the socket.  In a handshake OpenSSL passes over
 * messages without meaning for as long as there are more; anybody can send
 * those, before he has proved anything.
 */
#define READS_AT_ONCE 64

/* What all connections of the process share; stale: to be made anew. */
static SSL_CTX *shared_context = NULL;
static bool shared_is_stale = false;

void
slate_tls_reconfigure(void)
{
	shared_is_stale = true;
}

/* Note the first of OpenSSL's errors, and forget them all. */
static void
set_error_from_queue(const char *what)
{
	unsigned long code = ERR_get_error();
	const char *reason = code ? ERR_reason_error_string(code) : NULL;

	/* the system's have no words of OpenSSL's */
	if (code && reason == NULL)
		reason = strerror(ERR_GET_REASON(code));
	set_error("%s: %s", what, reason ? reason : "no reason is given");
	ERR_clear_error();
}

/* ------------------------------------------------------------------------
 * Below OpenSSL: the socket
 * ------------------------------------------------------------------------
 */

static bool
may_be_tried_again(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

static int
read_socket(BIO *bio, char *buffer, int size)
{
	SlateTls   *tls = BIO_get_data(bio);
	ssize_t		got = -1;

	if (tls->reads_left-- > 0)
		got = recv(tls->fd, buffer, size, tls->flags);
	else
		errno = EAGAIN;
	tls->io_errno = (got < 0) ? errno : 0;
	tls->at_end |= (got == 0);

	/* it has waited, if it was to */
	tls->flags = MSG_DONTWAIT;
	BIO_clear_retry_flags(bio);
	if (got < 0 && may_be_tried_again(tls->io_errno))
		BIO_set_retry_read(bio);
	return (int) got;
}

static int
write_socket(BIO *bio, const char *bytes, int len)
{
	SlateTls   *tls = BIO_get_data(bio);
	ssize_t		sent;

	do
		sent = send(tls->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	while (sent < 0 && errno == EINTR);

	tls->io_errno = (sent < 0) ? errno : 0;
	BIO_clear_retry_flags(bio);
	if (sent < 0 && may_be_tried_again(tls->io_errno))
		BIO_set_retry_write(bio);
	return (int) sent;
}

static long
control_socket(BIO *bio, int command, long number, void *pointer)
{
	SlateTls   *tls = BIO_get_data(bio);

	switch (command)
	{
		case BIO_CTRL_FLUSH:
			return 1;
		case BIO_CTRL_EOF:
			return tls->at_end;
		default:
			return 0;
	}
}

/* Made once; NULL if there is no memory. */
static BIO_METHOD *
socket_method(void)
{
	static BIO_METHOD *method = NULL;
	int			type;

	if (method != NULL)
		return method;
	type = BIO_get_new_index();
	if (type != -1)
		method = BIO_meth_new(type | BIO_TYPE_SOURCE_SINK,
							  "slate_cache socket");
	if (method == NULL)
		return NULL;
	if (!BIO_meth_set_read(method, read_socket) ||
		!BIO_meth_set_write(method, write_socket) ||
		!BIO_meth_set_ctrl(method, control_socket))
	{
		BIO_meth_free(method);
		method = NULL;
	}
	return method;
}

static bool
attach_socket(SlateTls *tls)
{
	BIO_METHOD *method = socket_method();
	BIO		   *bio = method ? BIO_new(method) : NULL;

	if (bio == NULL)
		return false;
	BIO_set_data(bio, tls);
	BIO_set_init(bio, 1);
	SSL_set_bio(tls->ssl, bio, bio);
	return true;
}

/* ------------------------------------------------------------------------
 * What all connections share
 * ------------------------------------------------------------------------
 */

/* A key's passphrase would be asked for at the terminal. */
static int
no_passphrase(char *buffer, int size, int writing, void *arg)
{
	return 0;
}

static bool
is_set(const char *setting)
{
	return setting != NULL && setting[0] != '\0';
}

/* Not a pipe, or OpenSSL would hang on it. */
static bool
is_plain_file(const char *what, const char *path)
{
	struct stat st;

	if (stat(path, &st) != 0)
		set_error("could not read %s \"%s\": %s", what, path, strerror(errno));
	else if (!S_ISREG(st.st_mode))
		set_error("could not read %s \"%s\": not a regular file", what, path);
	else
		return true;
	return false;
}

static bool
load_authorities(SSL_CTX *context)
{
	if (!is_set(slate_tls_ca_file))
	{
		if (SSL_CTX_set_default_verify_paths(context) == 1)
			return true;
		set_error_from_queue("could not find the system's certificates");
		return false;
	}
	if (!is_plain_file("slate_cache.tls_ca_file", slate_tls_ca_file))
		return false;

	/* what is named there is trusted, whoever has signed it */
	(void) X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context),
									   X509_V_FLAG_PARTIAL_CHAIN);
	if (SSL_CTX_load_verify_locations(context, slate_tls_ca_file, NULL) == 1)
		return true;
	set_error_from_queue("could not load slate_cache.tls_ca_file");
	return false;
}

static bool
load_own_certificate(SSL_CTX *context)
{
	const char *key = is_set(slate_tls_key_file) ? slate_tls_key_file
		: slate_tls_cert_file;

	if (!is_set(slate_tls_cert_file))
		return true;
	if (!is_plain_file("slate_cache.tls_cert_file", slate_tls_cert_file) ||
		!is_plain_file("slate_cache.tls_key_file", key))
		return false;
	if (SSL_CTX_use_certificate_chain_file(context, slate_tls_cert_file) != 1)
	{
		set_error_from_queue("could not load slate_cache.tls_cert_file");
		return false;
	}

	/* this sees, too, that the two belong together */
	if (SSL_CTX_use_PrivateKey_file(context, key, SSL_FILETYPE_PEM) != 1)
	{
		set_error_from_queue(is_set(slate_tls_key_file)
							 ? "could not load slate_cache.tls_key_file"
							 : "could not load a key from slate_cache.tls_cert_file, and slate_cache.tls_key_file is not set");
		return false;
	}
	return true;
}

/*
 * Without AUTO_RETRY what is no data ends a call, so that a server that sends
 * nothing else does not keep us from looking at the clock.
 */
static bool
set_up_context(SSL_CTX *context)
{
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_default_passwd_cb(context, no_passphrase);
	SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE |
					 SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
	if (SSL_CTX_get_min_proto_version(context) < TLS1_2_VERSION &&
		SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1)
	{
		set_error_from_queue("could not ask for TLS 1.2");
		return false;
	}
	return load_authorities(context) && load_own_certificate(context);
}

/* False on failure. */
static bool
prepare_shared_context(void)
{
	SSL_CTX    *context;

	if (shared_context != NULL && !shared_is_stale)
		return true;
	SSL_CTX_free(shared_context);
	shared_context = NULL;
	shared_is_stale = false;

	context = SSL_CTX_new(TLS_client_method());
	if (context == NULL)
	{
		set_error_from_queue("could not prepare for TLS");
		return false;
	}
	if (!set_up_context(context))
	{
		SSL_CTX_free(context);
		return false;
	}
	shared_context = context;
	return true;
}

/* ------------------------------------------------------------------------
 * A connection
 * ------------------------------------------------------------------------
 */

/*
 * SSL_VERIFY_PEER refuses a wrong certificate, but not that there is none, with
 * ciphers that need none, which a lax openssl.cnf may allow.
 */
static bool
has_proved_itself(SSL *ssl)
{
	X509	   *certificate = SSL_get_peer_certificate(ssl);
	bool		is_there = certificate != NULL;

	X509_free(certificate);
	return is_there && SSL_get_verify_result(ssl) == X509_V_OK;
}

/* Whom to expect; a name is told to the server as well, which may have many. */
static bool
expect_name(SSL *ssl, const char *name)
{
	if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1)
		return true;
	ERR_clear_error();
	SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
	return SSL_set1_host(ssl, name) == 1 &&
		SSL_set_tlsext_host_name(ssl, name) == 1;
}

SlateTls *
slate_tls_start(int fd, const char *host)
{
	SlateTls   *tls;

	ERR_clear_error();
	if (!prepare_shared_context())
		return NULL;
	tls = calloc(1, sizeof(SlateTls));
	if (tls == NULL)
	{
		set_error("out of memory");
		return NULL;
	}
	tls->fd = fd;
	tls->ssl = SSL_new(shared_context);
	if (tls->ssl != NULL && attach_socket(tls) &&
		expect_name(tls->ssl, is_set(slate_tls_server_name) ?
					slate_tls_server_name : host))
	{
		SSL_set_connect_state(tls->ssl);
		return tls;
	}
	set_error_from_queue("could not prepare for TLS");
	slate_tls_end(tls);
	return NULL;
}

void
slate_tls_end(SlateTls *tls)
{
	if (tls == NULL)
		return;
	SSL_free(tls->ssl);
	ERR_clear_error();
	free(tls);
}

/* Say why OpenSSL could not go on: ours, the server's, or the system's reason. */
static void
note_failure(SlateTls *tls)
{
	long		verified = SSL_get_verify_result(tls->ssl);
	bool		has_begun = SSL_is_init_finished(tls->ssl);

	/* a server may refuse our certificate after its own part is done */
	shared_is_stale |= !has_begun || ERR_peek_error() != 0;
	if (verified != X509_V_OK && !has_begun)
		set_error("the server's certificate is refused: %s",
				  X509_verify_cert_error_string(verified));
	else if (tls->at_end)
		set_error("the server closed the connection");
	else if (ERR_peek_error() != 0)
		set_error_from_queue("TLS failed");
	else
		set_error("%s", strerror(tls->io_errno));
	ERR_clear_error();
}

SlateTlsStatus
slate_tls_shake_hands(SlateTls *tls)
{
	int			result;

	tls->flags = MSG_DONTWAIT;
	tls->reads_left = READS_AT_ONCE;
	ERR_clear_error();
	result = SSL_do_handshake(tls->ssl);
	if (result == 1 && has_proved_itself(tls->ssl))
		return TLS_DONE;
	if (result == 1)
	{
		set_error("the server has shown no certificate");
		ERR_clear_error();
		return TLS_FAILED;
	}
	switch (SSL_get_error(tls->ssl, result))
	{
		case SSL_ERROR_WANT_READ:
			return TLS_WANTS_READ;
		case SSL_ERROR_WANT_WRITE:
			return TLS_WANTS_WRITE;
		default:
			note_failure(tls);
			return TLS_FAILED;
	}
}

ssize_t
slate_tls_send(SlateTls *tls, const char *bytes, size_t len)
{
	int			sent;
	int			error;

	ERR_clear_error();
	sent = SSL_write(tls->ssl, bytes, (int) Min(len, INT_MAX));
	if (sent > 0)
		return sent;
	error = SSL_get_error(tls->ssl, sent);
	if (error == SSL_ERROR_WANT_WRITE || error == SSL_ERROR_WANT_READ)
		errno = EAGAIN;
	else
	{
		note_failure(tls);
		errno = EIO;
	}
	return -1;
}

ssize_t
slate_tls_recv(SlateTls *tls, char *buffer, size_t size, int flags)
{
	int			got;
	int			error;

	tls->flags = flags;
	tls->reads_left = READS_AT_ONCE;
	tls->io_errno = 0;
	tls->wants_write = false;
	ERR_clear_error();
	got = SSL_read(tls->ssl, buffer, (int) size);
	if (got > 0)
		return got;
	error = SSL_get_error(tls->ssl, got);
	tls->wants_write = (error == SSL_ERROR_WANT_WRITE);
	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
	{
		errno = tls->io_errno == EINTR ? EINTR : EAGAIN;
		return -1;
	}

	/* whether with a farewell or without one: replies have their lengths */
	if (error == SSL_ERROR_ZERO_RETURN || tls->at_end)
	{
		ERR_clear_error();
		return 0;
	}
	note_failure(tls);
	errno = EIO;
	return -1;
}

bool
slate_tls_wants_write(const SlateTls *tls)
{
	return tls->wants_write;
}

#else							/* no OpenSSL */

void
slate_tls_reconfigure(void)
{
}

SlateTls *
slate_tls_start(int fd, const char *host)
{
	set_error("this PostgreSQL was built without TLS");
	return NULL;
}

SlateTlsStatus
slate_tls_shake_hands(SlateTls *tls)
{
	return TLS_FAILED;
}

void
slate_tls_end(SlateTls *tls)
{
}

ssize_t
slate_tls_send(SlateTls *tls, const char *bytes, size_t len)
{
	errno = EIO;
	return -1;
}

ssize_t
slate_tls_recv(SlateTls *tls, char *buffer, size_t size, int flags)
{
	errno = EIO;
	return -1;
}

bool
slate_tls_wants_write(const SlateTls *tls)
{
	return false;
}

#endif							/* USE_OPENSSL */
