import { writeFile } from 'node:fs/promises'
import pc from 'picocolors'
import { type ErrorCategory, HoldfastError } from '../base/errors.ts'
import type { Progress } from '../base/progress.ts'
import { toJson } from '../http/json.ts'

/** Results go to stdout, one JSON document with `--json`; progress and errors go to stderr. */

/** Where progress and errors go decides: a file or a script gets none, however much CI or the shell wishes for colours. */
const colors = pc.createColors(pc.isColorSupported && Boolean(process.stderr.isTTY))

/** CONTRACT of the command line; the reference repeats it. */
export const exitCodes = {
  done: 0,
  internal: 1,
  invalid: 2,
  denied: 3,
  not_found: 4,
  conflict: 5,
  unavailable: 6,
  ambiguous: 7,
  check_failed: 8,
} as const satisfies Record<ErrorCategory | 'done', number>

export function printJson(value: unknown): void {
  process.stdout.write(`${toJson(value, 2)}\n`)
}

/** Throws `argument_invalid` when the file cannot be written. */
export async function writeDocument(file: string, value: unknown): Promise<void> {
  try {
    await writeFile(file, `${toJson(value, 2)}\n`, { flush: true })
  } catch (cause) {
    throw new HoldfastError('argument_invalid', `${file} cannot be written`, {
      hint: 'name a file in a folder that exists and that you can write to',
      cause,
    })
  }
}

export function printLine(text: string): void {
  process.stdout.write(`${text}\n`)
}

export const progressLine: Progress = ({ step, detail }) => {
  process.stderr.write(`${colors.dim(step)}${detail === undefined ? '' : ` ${detail}`}\n`)
}

/** Tells an error once, where it ends; the exit code is that of its category. */
export function printError(error: unknown, json: boolean): number {
  const known = error instanceof HoldfastError ? error : undefined
  const message = error instanceof Error ? error.message : String(error)
  if (json) {
    const { code = 'internal', category = 'internal', retry = 'unknown', hint, detail } = known ?? {}
    printJson({ error: { code, category, retry, message, hint, detail } })
  } else {
    process.stderr.write(`${colors.red(known?.code ?? 'internal')}: ${message}\n`)
    if (known?.hint !== undefined) process.stderr.write(`${colors.dim(`hint: ${known.hint}`)}\n`)
  }
  // Where it came from is for whoever mends it, in both forms.
  if (known === undefined && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`)
  return exitCodes[known?.category ?? 'internal']
}

/** A reader that went away, as `head` does, or a terminal that was closed ends no fleet. */
export function outliveReaders(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
}
