"""The entry point of `mvmr`: it runs a command and turns errors into messages and exit codes.

Exit codes: 0 for success, 1 for a run that failed or was interrupted, 2 for wrong usage. The
commands themselves are in `commands`.
"""

import errno
import os
import sys

from stages.terminal import interruption, proposal

FAILED, WRONG_USAGE = 1, 2


def main() -> None:
    """Run the command line of this process, and exit; an expected error prints one sentence."""
    arguments = sys.argv[1:]
    interruption.listen(arguments)
    # Idle threads sleep instead of spinning, which makes small operations several times faster
    # on shared cores. This must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = run(arguments)
        interruption.farewell()
    except KeyboardInterrupt:  # just before the end
        interruption.farewell()
        code = _say(interruption.sentence(arguments), FAILED, [])
    interruption.end(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    proposal.forget()
    try:
        with interruption.at_once():
            from stages.terminal.commands import cli
        result = cli.main(args=arguments, prog_name="mvmr", standalone_mode=False)
    except BaseException as error:
        return _ended(error, arguments)
    code = result if isinstance(result, int) else 0
    if interruption.was_asked() and not code:
        sys.stderr.write(f"{interruption.too_late()}\n")
        return FAILED
    return code


def _ended(error: BaseException, arguments: list[str]) -> int:
    """Print why the command failed, and return its exit code."""
    import click

    from pipeline.base.errors import ConfigError, MvmrError

    if interruption.was_asked() or isinstance(error, KeyboardInterrupt | click.Abort):
        from pipeline.base.processes import is_first_process

        interruption.farewell()
        if not is_first_process():  # of several, the first one says it
            return FAILED
        return _say(interruption.sentence(arguments), FAILED, arguments)
    if isinstance(error, BrokenPipeError):
        return _reader_has_gone()
    if "--debug" in arguments and not isinstance(error, click.ClickException):
        raise error
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        sys.stderr.write(f"{error.format_message()}\n")
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        before = f"{context.get_usage()}\n" if context is not None else ""
        return _say(f"Error: {error.format_message()}", error.exit_code, arguments, before=before)
    if isinstance(error, MvmrError):
        code = WRONG_USAGE if isinstance(error, ConfigError) else FAILED
        return _say(f"Error: {proposal.sentence(str(error))}", code, arguments)
    if isinstance(error, OSError):
        return _say(f"Error: {_of_the_system(error, arguments)}", FAILED, arguments)
    from pipeline.base.locations import SERVICES

    if type(error).__module__.partition(".")[0] in SERVICES:
        return _say(f"Error: {_of_a_service(error)}", FAILED, arguments)
    raise error


def _say(sentence: str, code: int, arguments: list[str], *, before: str = "") -> int:
    """Print a sentence to standard error and, under --json, a document that holds it."""
    sys.stderr.write(f"{before}{sentence}\n")
    if "--json" in arguments:
        import json

        document = {"ok": False, "error": sentence.removeprefix("Error: ")}
        sys.stdout.write(f"{json.dumps(document, ensure_ascii=False)}\n")
    return code


def _reader_has_gone() -> int:
    """Suppress further output: the reader closed it early, as `| head` does."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED


def _of_the_system(error: OSError, arguments: list[str]) -> str:
    """Describe an error of the operating system, with a remedy if one is known."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        kept = ": what is finished is kept" if interruption.resumes(arguments) else ""
        return (
            f"No space is left on the disk{where}. Make room and run the same command again{kept}."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror}{where}. Make that place writable, or work elsewhere."
    return f"{error.strerror or error}{where}."


def _of_a_service(error: BaseException) -> str:
    """Describe an error of a place behind a URL."""
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return (
        f"A place behind a URL failed ({reason}). Check the address, the credentials and the "
        "network, and run the same command again: it continues from what is finished."
    )
