/** A value that is JSON already, to be written as it stands: parsing it would round its numbers. */
export class JsonText {
  readonly text: string

  constructor(text: string) {
    this.text = text
  }
}
