import { CommanderError } from 'commander'
import { expect, test } from 'vitest'
import { buildProgram } from './program.ts'
import { asksForJson, usageError } from './usage.ts'

async function refusal(...args: string[]) {
  const error: unknown = await buildProgram()
    .parseAsync(args, { from: 'user' })
    .catch((thrown: unknown) => thrown)
  if (!(error instanceof CommanderError)) throw new Error(`parsed: ${args.join(' ')}`)
  return usageError(error)
}

test.each([
  [['status', '--frob'], "unknown option '--frob'"],
  [['frob'], "unknown command 'frob'"],
  [['archive', 'frob'], "unknown command 'frob'"],
  [['txn'], "missing required argument 'id'"],
  [['status', 'now'], "too many arguments for 'status'. Expected 0 arguments but got 1."],
  [['sql', '--tenant', 'globex-eu', 'select 1'], "required option '--domain <domain>' not specified"],
  [['failover', 'eu-west/payroll', '--to'], "option '--to <target>' argument missing"],
])('%j is refused in one sentence', async (args, sentence) => {
  const error = await refusal(...args)
  expect(error).toMatchObject({ code: 'argument_invalid', category: 'invalid', message: sentence })
  expect(error.hint).toBeDefined()
})

test('a word that is nearly right is named', async () => {
  expect((await refusal('stat')).hint).toBe('Did you mean status?')
  expect((await refusal('restore', '--befor', 'x')).hint).toBe('Did you mean --before?')
})

test('a group without its command says so', () => {
  // As the parser throws it, once it has printed the help.
  expect(usageError(new CommanderError(1, 'commander.help', '(outputHelp)')).message).toBe('a command is missing')
})

test('JSON is asked for anywhere before what is no option', () => {
  expect(asksForJson(['--json', 'frob'])).toBe(true)
  expect(asksForJson(['status', '--frob', '--json'])).toBe(true)
  expect(asksForJson(['sql', '--', '--json'])).toBe(false)
  expect(asksForJson(['status'])).toBe(false)
})
