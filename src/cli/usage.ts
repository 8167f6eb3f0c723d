import type { CommanderError } from 'commander'
import { HoldfastError } from '../base/errors.ts'

/** What was wrong with a command line, in the words and with the exit code of every other error. */
export function usageError(error: CommanderError): HoldfastError {
  if (error.code === 'commander.help') {
    return new HoldfastError('argument_invalid', 'a command is missing', { hint: 'holdfast --help lists them' })
  }
  // The parser puts what it takes for the intended word on a line of its own.
  const [sentence = '', guess] = error.message.replace(/^error: /, '').split('\n')
  const hint =
    guess?.replace(/^\((.*)\)$/, '$1') ?? 'holdfast --help lists the commands, and --help behind one its options'
  return new HoldfastError('argument_invalid', sentence, { hint })
}

/** Whether the answer to a command line that could not be parsed is to be a JSON document. */
export function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf('--')
  return args.slice(0, end === -1 ? args.length : end).includes('--json')
}
