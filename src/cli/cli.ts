#!/usr/bin/env node
import { CommanderError } from 'commander'
import { outliveReaders, printError } from './output.ts'
import { buildProgram } from './program.ts'
import { asksForJson, usageError } from './usage.ts'

/** The `holdfast` command. What each one prints and returns is in docs/reference/cli.md. */
async function main(): Promise<void> {
  outliveReaders()
  try {
    await buildProgram().parseAsync()
  } catch (error) {
    // Help and version also end here.
    if (error instanceof CommanderError && error.exitCode === 0) return
    const told = error instanceof CommanderError ? usageError(error) : error
    process.exitCode = printError(told, asksForJson(process.argv.slice(2)))
  }
}

await main()
