import pc from 'picocolors'
import type { Display, StepReport } from './story.ts'

/** One line a step and its sentences below; on a terminal the running step is shown live. */
export function displayOn(stream: NodeJS.WriteStream): Display {
  return stream.isTTY ? new LiveDisplay(stream) : new PlainDisplay(stream)
}

const wrapAt = 100

export function renderStep(title: string, report: StepReport): string {
  const mark = report.ok ? pc.green('✔') : pc.red('✘')
  const failed = report.checks.filter(({ held }) => !held)
  const checks =
    report.checks.length === 0 ? '' : pc.dim(`, ${report.checks.length - failed.length}/${report.checks.length} checks`)
  return [
    `${mark} ${pc.bold(title)} ${pc.dim(`${report.ms} ms`)}${checks}`,
    ...report.detail
      .split('\n')
      .flatMap((line) => wrap(line))
      .map((line) => `    ${line}`),
    ...failed.map(({ claim }) => `    ${pc.red(`does not hold: ${claim}`)}`),
  ].join('\n')
}

class PlainDisplay implements Display {
  readonly #stream: NodeJS.WriteStream

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream
  }

  begin(): void {}

  progress(): void {}

  end(title: string, report: StepReport): void {
    this.#stream.write(`${renderStep(title, report)}\n`)
  }
}

const frames = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏']
const frameMs = 80

class LiveDisplay implements Display {
  readonly #stream: NodeJS.WriteStream
  #timer: NodeJS.Timeout | undefined
  #frame = 0
  #title = ''
  #progress = ''

  constructor(stream: NodeJS.WriteStream) {
    this.#stream = stream
  }

  begin(title: string): void {
    this.#title = title
    this.#progress = ''
    this.#timer = setInterval(() => this.#draw(), frameMs)
    // A display does not keep a process alive.
    this.#timer.unref()
    this.#draw()
  }

  progress(text: string): void {
    this.#progress = text
  }

  end(title: string, report: StepReport): void {
    clearInterval(this.#timer)
    this.#clear()
    this.#stream.write(`${renderStep(title, report)}\n`)
  }

  #draw(): void {
    this.#frame = (this.#frame + 1) % frames.length
    const room = Math.max(this.#stream.columns - this.#title.length - 4, 0)
    this.#clear()
    this.#stream.write(`${pc.cyan(frames[this.#frame] ?? '')} ${this.#title} ${pc.dim(this.#progress.slice(0, room))}`)
  }

  #clear(): void {
    this.#stream.cursorTo(0)
    this.#stream.clearLine(0)
  }
}

function wrap(text: string): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > wrapAt) {
      lines.push(line)
      line = word
    } else {
      line = line === '' ? word : `${line} ${word}`
    }
  }
  return line === '' ? lines : [...lines, line]
}
